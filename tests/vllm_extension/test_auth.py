import pytest

from loradock_vllm.auth import TokenGuard

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", TOKEN.encode())],
        [(b"authorization", b"Basic " + TOKEN.encode())],
        [(b"authorization", b"Bearer " + TOKEN.encode() + b"x")],
        [(b"authorization", b"Bearer " + TOKEN.encode()[:-1])],
        [(b"authorization", b"Bearer " + TOKEN.upper().encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"x-authorization", b"Bearer " + TOKEN.encode())],
        [(b"authorization", b"Bearer wrong"), (b"authorization", b"Bearer " + TOKEN.encode())],
    ],
)
def test_what_is_not_exactly_the_token_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert not TokenGuard([TOKEN]).allows(headers)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_token_is_allowed(scheme: bytes) -> None:
    headers = [(b"host", b"x"), (b"authorization", scheme + b" " + TOKEN.encode())]
    assert TokenGuard(["another-token", TOKEN]).allows(headers)


def test_without_tokens_nobody_is_allowed() -> None:
    assert not TokenGuard([]).allows([(b"authorization", b"Bearer x")])


def test_the_guard_keeps_no_token() -> None:
    assert TOKEN not in repr(vars(TokenGuard([TOKEN])))
