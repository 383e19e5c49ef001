"""Trained networks as files for small devices: conversion, verification, latency and the bundle."""
