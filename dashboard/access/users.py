"""Who uses a page: asked before anything is shown, and recorded with whatever they submit."""

from __future__ import annotations

import streamlit as st

from core.errors import SpecError
from dashboard import words
from dashboard.access import login
from dashboard.access.login import Access, Login
from jobs.provenance import user


def configured() -> Access:
    """Return what the dashboard asks of its users, from the environment and Streamlit's secrets. SpecError."""
    return login.access(oidc=oidc_configured())


def oidc_configured() -> bool:
    """Return whether Streamlit's secrets name an OpenID provider."""
    return bool(st.secrets.load_if_toml_exists() and "auth" in st.secrets)


def current_user() -> str | None:
    """Return whom a submission is recorded under: a name, an e-mail address, or this machine's user without a login.

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
    """Let a page go on for someone who may use it; show the others what to do, and nothing else."""
    try:
        access = configured()
    except SpecError as error:
        stop(words.sentence(error))
    if refusal := access.refusal(st.get_option("server.address") or None):
        stop(refusal + ".")
    name = current_user()
    if name is None:
        ask(access)
    elif access.login is not Login.NONE:
        signed_in(name, access)


def ask(access: Access) -> None:
    """Offer the way to sign in, and stop."""
    if access.login is Login.PASSWORD:
        stop(
            "Expected a session that is signed in. Open this page anew to sign in; where no form appears, the "
            "dashboard was started without its guard: start it with `python -m dashboard`, or with Streamlit on "
            "`dashboard/server.py`."
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
    """Say below the pages' list who is signed in, with the way out."""
    with st.sidebar:
        st.caption(f":material/person: {words.escaped(name)}")
        if access.login is Login.OIDC:
            st.button("Sign out", on_click=st.logout, icon=":material/logout:", type="tertiary")
        else:
            st.html('<a href="/signout" target="_self" style="color: inherit; font-size: 0.875rem">Sign out</a>')
