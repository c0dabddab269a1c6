"""Reading an engine's stream to its last event, for tests of engines."""

from serving.engines.interface import End, Event, Piece, Stream


def last_event(stream: Stream) -> tuple[str, Event]:
    """The text of all pieces, and the event that is no piece; fails after 60 s without one."""
    text = ""
    while isinstance(event := stream.next(timeout_s=60), Piece):
        text += event.text
    return text, event


def whole_answer(stream: Stream) -> tuple[str, End]:
    """The text and the end of a request that must not fail."""
    text, event = last_event(stream)
    assert isinstance(event, End), event
    return text, event
