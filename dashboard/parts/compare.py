"""Two or more images of the same size to compare: a swipe, or panes side by side with one zoom for all.

A small component of our own, because Streamlit has none: images travel as data URIs, zoom and swipe stay in the
browser, so that a slider step exchanges the picture under an unchanged view. Everything works from the keyboard.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import streamlit as st

HTML = """
<div class="compare" role="group">
  <div class="bar">
    <button type="button" class="out" title="Zoom out (-)" aria-label="Zoom out">−</button>
    <output class="zoom" aria-live="polite">100 %</output>
    <button type="button" class="in" title="Zoom in (+)" aria-label="Zoom in">+</button>
    <button type="button" class="fit" title="Whole image (0)">Whole image</button>
    <span class="hint">Drag to move, double-click or + to zoom, arrow keys to move</span>
  </div>
  <div class="panes"></div>
  <label class="swipe"><span class="left"></span><input type="range" min="0" max="100" step="1" value="50"
    aria-label="Position of the dividing line, in percent of the width"><span class="right"></span></label>
</div>
"""

CSS = """
.compare { color: var(--st-text-color); font-family: var(--st-font); font-size: 0.875rem; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: 0.4rem; margin-bottom: 0.5rem; }
.bar button {
  font: inherit; color: inherit; background: var(--st-background-color); cursor: pointer;
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); padding: 0.2rem 0.6rem;
}
.bar button:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
.zoom { min-width: 3.4rem; text-align: center; font-variant-numeric: tabular-nums; }
.hint { opacity: 0.65; }
.panes { display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); }
.panes.one { grid-template-columns: minmax(0, 1fr); }
.panes.four { grid-template-columns: repeat(2, minmax(0, 1fr)); }
@media (max-width: 640px) { .panes.four { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; min-width: 0; }
figcaption { margin-top: 0.25rem; overflow-wrap: anywhere; }
figcaption small { opacity: 0.7; }
.view {
  position: relative; overflow: hidden; touch-action: pan-y; cursor: grab; margin: 0 auto;
  border-radius: var(--st-base-radius); background: var(--st-secondary-background-color);
}
.view:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
.view.zoomed { touch-action: none; }
.view img { position: absolute; inset: 0; width: 100%; height: 100%; transform-origin: 0 0; user-select: none;
  -webkit-user-drag: none; pointer-events: none; display: block; }
.view.near img { image-rendering: pixelated; }
.top { position: absolute; inset: 0; }
.line { position: absolute; top: 0; bottom: 0; width: 28px; margin-left: -14px; cursor: ew-resize; touch-action: none; }
.line::before { content: ""; position: absolute; left: 13px; top: 0; bottom: 0; width: 2px; background: #fff;
  box-shadow: 0 0 3px rgba(0, 0, 0, 0.8); }
.line::after { content: "\\2194"; position: absolute; left: 0; top: calc(50% - 14px); width: 28px; height: 28px;
  line-height: 28px; text-align: center; border-radius: 50%; background: #fff; color: #222;
  box-shadow: 0 0 4px rgba(0, 0, 0, 0.6); }
.swipe { display: flex; align-items: center; gap: 0.6rem; margin-top: 0.5rem; }
.swipe input { flex: 1; min-width: 0; accent-color: var(--st-primary-color); }
.swipe span { white-space: nowrap; }
[hidden] { display: none !important; }
"""

JS = """
const states = new WeakMap()
const LIMIT = 16

export default function (component) {
  const { data, parentElement } = component
  const root = parentElement.querySelector(".compare")
  let state = states.get(parentElement)
  if (!state) {
    state = { zoom: 1, x: 0, y: 0, split: 50, images: [], views: [], shape: "" }
    states.set(parentElement, state)
  }
  const find = (selector) => root.querySelector(selector)
  const swipe = data.mode === "swipe"
  root.setAttribute("aria-label", data.panes.map((pane) => pane.label).join(", "))

  const draw = () => {
    const most = state.zoom - 1
    state.x = Math.min(0, Math.max(-most, state.x))
    state.y = Math.min(0, Math.max(-most, state.y))
    for (const image of state.images)
      image.style.transform = `translate(${100 * state.x}%, ${100 * state.y}%) scale(${state.zoom})`
    for (const view of state.views) {
      view.classList.toggle("near", state.zoom >= 2)
      view.classList.toggle("zoomed", state.zoom > 1)
    }
    find(".zoom").textContent = `${Math.round(100 * state.zoom)} %`
    const top = find(".top")
    if (top) {
      top.style.clipPath = `inset(0 0 0 ${state.split}%)`
      find(".line").style.left = `${state.split}%`
      const range = find(".swipe input")
      if (Number(range.value) !== Math.round(state.split)) range.value = Math.round(state.split)
    }
  }
  const zoomTo = (zoom, px = 0.5, py = 0.5) => {
    const next = Math.min(LIMIT, Math.max(1, zoom))
    state.x = px - ((px - state.x) * next) / state.zoom
    state.y = py - ((py - state.y) * next) / state.zoom
    state.zoom = next
    draw()
  }
  const place = (event, view) => {
    const box = view.getBoundingClientRect()
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
  }

  const build = () => {
    const panes = find(".panes")
    panes.replaceChildren()
    state.images = []
    state.views = []
    const groups = swipe ? [data.panes] : data.panes.map((pane) => [pane])
    panes.classList.toggle("one", swipe)
    panes.classList.toggle("four", groups.length === 4)
    for (const group of groups) {
      const figure = document.createElement("figure")
      const view = document.createElement("div")
      view.className = "view"
      view.tabIndex = 0
      view.setAttribute("role", "img")
      view.style.aspectRatio = `${data.width} / ${data.height}`
      if (swipe) view.style.maxWidth = `min(100%, ${data.maxWidth}px)`
      group.forEach((pane, index) => {
        const image = document.createElement("img")
        image.alt = ""
        let parent = view
        if (swipe && index === 1) {
          parent = document.createElement("div")
          parent.className = "top"
          view.append(parent)
        }
        parent.append(image)
        state.images.push(image)
      })
      if (swipe) {
        const line = document.createElement("div")
        line.className = "line"
        line.onpointerdown = (event) => {
          event.stopPropagation()
          event.preventDefault()
          line.setPointerCapture(event.pointerId)
        }
        line.onpointermove = (event) => {
          if (!line.hasPointerCapture(event.pointerId)) return
          state.split = Math.min(100, Math.max(0, 100 * place(event, view)[0]))
          draw()
        }
        view.append(line)
      }
      let from = null
      view.onpointerdown = (event) => {
        if (state.zoom === 1) return
        from = [...place(event, view), state.x, state.y]
        view.setPointerCapture(event.pointerId)
      }
      view.onpointermove = (event) => {
        if (!from) return
        const [px, py] = place(event, view)
        state.x = from[2] + px - from[0]
        state.y = from[3] + py - from[1]
        draw()
      }
      view.onpointerup = view.onpointercancel = () => { from = null }
      view.ondblclick = (event) => zoomTo(state.zoom * 2, ...place(event, view))
      view.onwheel = (event) => {
        if (!event.ctrlKey && !event.metaKey && state.zoom === 1) return
        event.preventDefault()
        zoomTo(state.zoom * Math.exp(-event.deltaY / 400), ...place(event, view))
      }
      view.onkeydown = (event) => {
        const moves = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }
        if (event.key === "+" || event.key === "=") zoomTo(state.zoom * 1.5)
        else if (event.key === "-") zoomTo(state.zoom / 1.5)
        else if (event.key === "0") zoomTo(1)
        else if (moves[event.key] && state.zoom > 1) {
          state.x += moves[event.key][0]
          state.y += moves[event.key][1]
          draw()
        } else return
        event.preventDefault()
      }
      state.views.push(view)
      figure.append(view)
      if (!swipe) figure.append(document.createElement("figcaption"))
      panes.append(figure)
    }
  }

  const shape = `${data.mode} ${data.width} ${data.height} ${data.panes.length}`
  if (state.shape !== shape) {
    if (state.shape.split(" ").slice(1, 3).join() !== shape.split(" ").slice(1, 3).join())
      Object.assign(state, { zoom: 1, x: 0, y: 0 })
    build()
    state.shape = shape
  }
  data.panes.forEach((pane, index) => {
    if (state.images[index].src !== pane.src) state.images[index].src = pane.src
    if (swipe) return
    state.views[index].setAttribute("aria-label", `${pane.label}. ${pane.note}`)
    const caption = find(".panes").children[index].querySelector("figcaption")
    const note = document.createElement("small")
    note.textContent = pane.note
    caption.replaceChildren(pane.label, document.createElement("br"), note)
  })
  if (swipe) state.views[0].setAttribute("aria-label", `${data.panes[0].label} | ${data.panes[1].label}`)

  find(".swipe").hidden = !swipe
  if (swipe) {
    find(".left").textContent = data.panes[0].label
    find(".right").textContent = data.panes[1].label
    find(".swipe input").oninput = (event) => { state.split = Number(event.target.value); draw() }
  }
  find(".in").onclick = () => zoomTo(state.zoom * 1.5)
  find(".out").onclick = () => zoomTo(state.zoom / 1.5)
  find(".fit").onclick = () => zoomTo(1)
  draw()
}
"""

VIEWER = st.components.v2.component("dermslim_compare", html=HTML, css=CSS, js=JS)


@dataclass(frozen=True)
class Pane:
    """One image to compare: its PNG file, its name, and a line about it."""

    image: bytes
    label: str
    note: str = ""


def compare(panes: list[Pane], shape: tuple[int, int], mode: str, *, key: str) -> None:
    """Show images of one shape (rows, columns): `swipe` (the first two) or `side` (all, zoom linked)."""
    shown = panes[:2] if mode == "swipe" else panes
    VIEWER(
        key=key,
        data={
            "mode": mode,
            "height": shape[0],
            "width": shape[1],
            "maxWidth": max(360, min(900, round(540 * shape[1] / shape[0]))),
            "panes": [
                {
                    "label": pane.label,
                    "note": pane.note,
                    "src": f"data:image/png;base64,{base64.b64encode(pane.image).decode()}",
                }
                for pane in shown
            ],
        },
    )
