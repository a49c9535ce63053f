"""`journeyman-agent enrol`: the gateway's side of enrolment (`wire/enrolment.py`).

    AGENT.key, AGENT.tls.key    made here by `request`, and never leave
    AGENT.token                 waits for the answer; removed by `install`
    AGENT.request               to the enrolment authority; no secret
    charter.jm, ca.crt, AGENT.credential, AGENT.crt    written by `install`

`install` writes nothing before everything was checked down to the token's pins, and refuses what is
older than what is installed.  Both can be repeated after a power cut at any moment.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from wire.certificates import (
    CA_CERTIFICATE,
    parse_certificate,
    read_key,
    write_certificate,
    write_key,
)
from wire.codec import MAX_BYTES
from wire.enrolment import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    MAX_TOKEN_CHARACTERS,
    Enrolled,
    Token,
    answered_token,
    decode_token,
    encode_token,
    make_request,
    parse_request,
    read_answer,
)
from wire.errors import SettingsError, WireError
from wire.files import SECRET_MODE, read_secret_file, read_small, replace_file
from wire.issuing import Key, new_key
from wire.keys import CHARTER
from wire.signing import PrivateKey, PublicKey, read_private_key, write_private_key
from wire.trust import Trust, read_charter, read_credential

STANDARD_INPUT = "-"


def request(token_file: str, directory: Path) -> Path:
    """Make keys and request for the agent that the token names.

    Keys that are there already stay and are used; so is the request, if it is this token's.

    Args:
      token_file: path, or `-` for standard input.
      directory: for the keys; made if missing, and its owner's alone then.

    Returns:
      The request, for the enrolment authority.

    Raises:
      SettingsError: names the file that can not be used.
    """
    token = _read_token(token_file)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(str(directory), None, None, f"can not make: {error}") from None
    _check_directory(directory, token)
    path = directory / f"{token.agent}.request"
    key, tls_key = _keys(directory, token.agent, may_make=True)
    replace_file(_token_path(directory, token), f"{encode_token(token)}\n".encode(), SECRET_MODE)
    if not _is_request_of(path, token):
        replace_file(path, make_request(token, key, tls_key))
    return path


def how_to_go_on(path: Path) -> str:
    """What to tell the person at the terminal who carries a request by hand."""
    token, directory = _read_token(str(path.with_suffix(".token"))), path.parent
    end = datetime.fromtimestamp(token.expires, UTC)
    return (
        f"{path}: bring it to the enrolment authority before {end:%Y-%m-%d %H:%M} UTC; there:\n"
        f"  journeyman enrolment grant DIR {path.name} --out {token.agent}.answer\n"
        f"and with the answer, here:\n"
        f"  journeyman-agent enrol install {token.agent}.answer --dir {directory}"
    )


def install(answer: Path, directory: Path) -> str:
    """Check the answer to the request that waits in `directory`, and write what it holds.

    Returns:
      What to tell the person at the terminal: the lines for agent.toml.

    Raises:
      SettingsError: names the file that can not be used; nothing was written.
    """
    data = read_small(answer, MAX_ANSWER_BYTES, "an enrolment answer")
    return install_answer(data, str(answer), directory)


def install_answer(data: bytes, source: str, directory: Path) -> str:
    """As `install`, for an answer that came from `source`."""
    now = datetime.now(UTC)
    try:
        token = _waiting_token(directory, answered_token(data))
        key, tls_key = _keys(directory, token.agent, may_make=False)
        enrolled = read_answer(data, token, key.public, tls_key.public_key(), now)
        _check_newer(directory, token, enrolled)
    except WireError as error:
        raise SettingsError(source, None, None, str(error)) from None
    certificate = parse_certificate(enrolled.certificate, "certificate")
    replace_file(directory / CHARTER, enrolled.charter)
    write_certificate(directory / CA_CERTIFICATE, parse_certificate(enrolled.ca, "CA"))
    write_certificate(directory / f"{token.agent}.crt", certificate)
    replace_file(directory / f"{token.agent}.credential", enrolled.credential)
    (directory / f"{token.agent}.request").unlink(missing_ok=True)
    _token_path(directory, token).unlink()  # last: until then, everything can be repeated
    said = f"# {token.agent} of {token.site} is enrolled in {token.federation} until "
    said += f"{certificate.not_valid_after_utc:%Y-%m-%d}. In agent.toml:\n"
    if now < certificate.not_valid_before_utc:
        said += f"# This machine's clock is behind: it says {now:%Y-%m-%d %H:%M} UTC.\n"
    return said + _settings(directory.resolve(), token)


def _settings(directory: Path, token: Token) -> str:
    def line(key: str, value: object) -> str:
        # JSON's strings are TOML basic strings (toml.io/en/v1.0.0#string).
        return f"{key} = {msgspec.json.encode(str(value)).decode()}\n"

    return (
        "\n[trust]\n"
        + line("root", token.root.hex())
        + line("charter", directory / CHARTER)
        + line("credential", directory / f"{token.agent}.credential")
        + line("key", directory / f"{token.agent}.key")
        + "\n[broker]\n"
        + "# host and port as the broker's operator says; TLS is usually on port 8883\n"
        + line("ca_file", directory / CA_CERTIFICATE)
        + line("cert_file", directory / f"{token.agent}.crt")
        + line("key_file", directory / f"{token.agent}.tls.key").rstrip()
    )


def _read_token(name: str) -> Token:
    what = "an enrolment token"
    try:
        if name == STANDARD_INPUT:
            text = sys.stdin.read(MAX_TOKEN_CHARACTERS + 1)
        else:
            text = read_secret_file(Path(name), MAX_TOKEN_CHARACTERS, what).decode("ascii")
        return decode_token(text)
    except UnicodeDecodeError:
        raise SettingsError(name, None, None, f"not {what}: it is not text") from None
    except WireError as error:
        raise SettingsError(name, None, None, str(error)) from None


def _token_path(directory: Path, token: Token) -> Path:
    return directory / f"{token.agent}.token"


def _waiting_token(directory: Path, token_id: bytes) -> Token:
    waiting = [_read_token(str(path)) for path in sorted(directory.glob("*.token"))]
    for token in waiting:
        if token.id == token_id:
            return token
    names = ", ".join(f"{token.agent} ({token.id.hex()})" for token in waiting)
    reason = f"no request waits here for an answer to token {token_id.hex()}, but for "
    reason += names or "none at all: it was installed already, or requested in another directory"
    raise SettingsError(str(directory), None, None, reason)


def _keys(directory: Path, agent: str, *, may_make: bool) -> tuple[PrivateKey, Key]:
    path, tls_path = directory / f"{agent}.key", directory / f"{agent}.tls.key"
    if may_make and not path.exists():
        write_private_key(path, PrivateKey.generate())
    if may_make and not tls_path.exists():
        write_key(tls_path, new_key())
    return read_private_key(path), read_key(tls_path)


def _is_request_of(path: Path, token: Token) -> bool:
    """Keep a request that is there: the authority answers the same bytes again and no others."""
    if not path.exists():
        return False
    try:
        there = parse_request(read_small(path, MAX_REQUEST_BYTES, "an enrolment request"))
    except (SettingsError, WireError):
        return False
    return there.token_id == token.id


def _check_directory(directory: Path, token: Token) -> Trust | None:
    """What is installed already, which must be of the token's federation."""
    path = directory / CHARTER
    if not path.exists():
        return None
    try:
        there = read_charter(
            read_small(path, MAX_BYTES["charter"], "a charter"), PublicKey(token.root)
        )
    except WireError:
        there = None
    if there is None or there.federation != token.federation:
        reason = f"this is not the charter of {token.federation}, which the token is for; enrol "
        raise SettingsError(str(path), None, None, reason + "into another directory")
    return there


def _check_newer(directory: Path, token: Token, enrolled: Enrolled) -> None:
    """Refuse to go back: an older answer may hold keys that are not trusted any more."""
    there = _check_directory(directory, token)
    if there is None:
        return
    if there.charter.epoch > enrolled.agreed.epoch:
        reason = f"its charter, epoch {enrolled.agreed.epoch}, is older than the one in "
        raise SettingsError(str(directory), None, None, reason + f"use, {there.charter.epoch}")
    path = directory / f"{token.agent}.credential"
    if path.exists():
        try:
            own = read_credential(read_small(path, MAX_BYTES["credential"], "a credential"), there)
        except WireError:
            return  # of an enrolment key that the charter no longer names
        if own.serial > enrolled.own.serial:
            reason = f"its credential {enrolled.own.serial} is older than the one in use, "
            raise SettingsError(str(path), None, None, reason + f"{own.serial}")
