"""The user of a page: checked before anything is shown, and recorded with every submission."""

from __future__ import annotations

import streamlit as st

from core.errors import SpecError
from dashboard import words
from dashboard.access import login
from dashboard.access.login import Access, Login
from jobs.provenance import user


def configured() -> Access:
    """Return the configured login, from the environment and Streamlit's secrets. Raises SpecError."""
    return login.access(oidc=oidc_configured())


def oidc_configured() -> bool:
    """Return whether Streamlit's secrets name an OpenID provider."""
    return bool(st.secrets.load_if_toml_exists() and "auth" in st.secrets)


def current_user() -> str | None:
    """Return the user of submissions: a name, an e-mail address, or this machine's user without a login.

    None where nobody is signed in.
    """
    access = configured()
    if access.login is Login.NONE:
        return user()
    if access.login is Login.PASSWORD:
        session = access.session(st.context.cookies.get(login.COOKIE))
        return session.name if session else None
    if not st.user.is_logged_in:
        return None
    email, verified = str(st.user.get("email") or ""), bool(st.user.get("email_verified", True))
    return email if access.admits(email, verified=verified) else None


def require_user() -> None:
    """Continue for a user who may use the page; for others show what to do and stop."""
    try:
        access = configured()
    except SpecError as error:
        stop(words.sentence(error))
    if refusal := access.refusal(st.get_option("server.address") or None):
        stop(refusal)
    name = current_user()
    if name is None:
        ask(access)
    elif access.login is not Login.NONE:
        signed_in(name, access)


def ask(access: Access) -> None:
    """Offer to sign in, and stop."""
    if access.login is Login.PASSWORD:
        stop(
            "You are not signed in. Reload this page to sign in. If no form appears, the dashboard was started without "
            "its guard: start it with `python -m dashboard`, or with Streamlit on `dashboard/server.py`."
        )
    st.title("DermSlim")
    if st.user.is_logged_in:
        st.error(f"{words.escaped(str(st.user.get('email')))} may not use this dashboard.", icon=":material/block:")
        st.button("Sign out", on_click=st.logout, icon=":material/logout:")
    else:
        st.button("Sign in", on_click=st.login, type="primary", icon=":material/login:")
    st.stop()


def stop(sentence: str) -> None:
    """Show one sentence and end the page."""
    st.error(sentence, icon=":material/lock:")
    st.stop()


def signed_in(name: str, access: Access) -> None:
    """Show the user and the sign-out link below the list of pages."""
    with st.sidebar:
        st.caption(f":material/person: {words.escaped(name)}")
        if access.login is Login.OIDC:
            st.button("Sign out", on_click=st.logout, icon=":material/logout:", type="tertiary")
        else:
            st.html('<a href="/signout" target="_self" style="color: inherit; font-size: 0.875rem">Sign out</a>')
