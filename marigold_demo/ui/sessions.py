"""What Gradio itself remembers of each visitor, and when it forgets. Knows nothing of what the page keeps.

Gradio copies the description of the whole page for every session, 0.4 MB of it, holds 10,000 sessions unless
told otherwise, and takes each call of an endpoint by a program for a session of its own.
"""

from gradio.context import LocalContext

MOST = 300


def forget_session() -> None:
    """Forget the session of the event that runs now; for endpoints, which keep nothing between two calls."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None or not request.session_hash:
        return
    sessions = blocks.state_holder
    with sessions.lock:
        sessions.session_data.pop(request.session_hash, None)
        sessions.time_last_used.pop(request.session_hash, None)


def visitor() -> str | None:
    """Return the address of the client whose event runs now; None outside of one."""
    request = LocalContext.request.get(None)
    client = getattr(request, "client", None)
    return getattr(client, "host", None)
