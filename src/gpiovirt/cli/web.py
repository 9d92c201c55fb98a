# SPDX-License-Identifier: MIT
"""gpiovirt web: chips, waveforms and the record in a browser."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from typing import TYPE_CHECKING

from gpiovirt.control import ENVIRONMENT
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.installation import how_to_install

if TYPE_CHECKING:
    import socket

    from gpiovirt.api.http import Server
    from gpiovirt.web.recordings import Recordings
    from gpiovirt.web.routes import Shown

__all__ = ["configure", "main", "need_libraries", "serve_page", "show_simulator"]

EPILOG = """\
The page shows the chips of gpiovirtd that you may use, and the simulators of your programs. It is served by
this process, with your rights, on loopback, to your own processes only; the link lets one browser in, once.
Ctrl-C ends it, and lets go of lines that the page holds. Started by a program of `gpiovirt run`, it shows
that program's simulator only, and ends some time after it.

For others than yourself: --tokens lets in who has one of `gpiovirt token`, with its rights; --listen needs
--tls, or --behind-proxy where a proxy on this machine has the certificate, and the names by which browsers
reach it.

examples:
  gpiovirt web
  gpiovirt web --no-browser --port 9000
  gpiovirt web --tokens --listen 0.0.0.0:8443 --name plant --tls plant.crt plant.key
"""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_IDLE_LOOKS = 10
_PLAIN = argparse.Namespace(tls=None, behind_proxy=False, name=[], tokens=False, read_only=True)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--port", type=int, metavar="N", help="of loopback (default: 8413, or the next free)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--read-only", action="store_true", help="let nobody drive lines from the page")
    parser.add_argument("--tokens", action="store_true", help="let in who has a token of `gpiovirt token`")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="elsewhere than on loopback")
    parser.add_argument(
        "--name",
        metavar="HOST[:PORT]",
        action="append",
        default=[],
        help="how browsers call it (may be repeated)",
    )
    parser.add_argument("--tls", metavar=("CERT", "KEY"), nargs=2, help="serve HTTPS with these PEM files")
    parser.add_argument("--behind-proxy", action="store_true", help="a proxy on this machine serves HTTPS")


def main(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    need_libraries()
    return serve_page(options)


def show_simulator(name: str) -> None:
    """Have a process that is no child of ours show a simulator; it says where on standard error."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if not os.fork():
            os.dup2(2, 1)
            command = [sys.executable, "-m", "gpiovirt", "web"]
            os.execve(command[0], command, {**os.environ, ENVIRONMENT: name})  # noqa: S606
    finally:
        os._exit(0)


def serve_page(options: argparse.Namespace, recordings: Recordings | None = None) -> int:
    """Serve until Ctrl-C; recordings instead of what is there now."""
    from gpiovirt.web.server import listen

    host, port = ("127.0.0.1", options.port) if recordings else _address(options)
    with listen(host, port) as sock:
        if recordings:
            return _serve(_PLAIN, options.no_browser, sock, host, recordings)
        return _serve(options, options.no_browser, sock, host)


def need_libraries() -> None:
    """HostError if what serves the page is not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise HostError(f"the page needs {error.name}; install: {how_to_install('web')}") from error


def _address(options: argparse.Namespace) -> tuple[str, int | None]:
    """Where to listen; UsageError for what would let strangers in, or nobody."""
    host, port = "127.0.0.1", options.port
    if options.listen:
        host, _, number = options.listen.rpartition(":")
        host = host.strip("[]")
        if not host or not number.isdecimal() or port is not None:
            raise UsageError("--listen ADDRESS:PORT, as in 0.0.0.0:8443, and without --port")
        port = int(number)
    if port is not None and not 0 <= port < 1 << 16:
        raise UsageError(f"{port} is no port")
    is_ours = host in _LOOPBACK
    if not is_ours and not (options.tls and options.tokens):
        raise UsageError("--listen beyond loopback needs --tls CERT KEY and --tokens")
    if not is_ours and not options.name:
        raise UsageError("--listen beyond loopback needs --name, as browsers call this machine")
    if options.behind_proxy and (not options.name or not options.tokens or options.tls):
        raise UsageError("--behind-proxy needs --tokens and --name, and the certificate is the proxy's")
    return host, port


def _serve(
    options: argparse.Namespace,
    no_browser: bool,
    sock: socket.socket,
    host: str,
    recordings: Recordings | None = None,
) -> int:
    from gpiovirt.web.access import ALL, Rights, Sessions, Tokens, token_file
    from gpiovirt.web.guard import Origin
    from gpiovirt.web.server import make_server

    port = sock.getsockname()[1]
    scheme = "https" if options.tls or options.behind_proxy else "http"
    names = [name if ":" in name or options.behind_proxy else f"{name}:{port}" for name in options.name]
    if host in _LOOPBACK and not options.behind_proxy:
        names += [f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"]
    tokens = Tokens(token_file(os.getuid())) if options.tokens else None
    if tokens is not None:
        tokens.all()
    link = None if options.tokens else secrets.token_urlsafe(32)
    rights = Rights(drive=False, manage=False) if options.read_only else ALL
    sessions = Sessions(link, tokens, rights)
    url = f"{scheme}://{names[0]}/{'' if link is None else f'#token={link}'}"
    certificate = tuple(options.tls) if options.tls else None
    if certificate is not None:
        _check_certificate(*certificate)

    only = None if recordings else os.environ.get(ENVIRONMENT)

    async def serve() -> None:
        origin = Origin(scheme, names, port)
        loop = asyncio.get_running_loop()
        server, shown = make_server(sessions, origin, loop, not options.tokens, only, certificate, recordings)
        ends = asyncio.create_task(_end_with(server, shown)) if only else None
        await server.serve([sock])
        if ends is not None:
            ends.cancel()

    print(url, flush=True)
    if not no_browser and link is not None:
        _open(url)
    asyncio.run(serve())
    return 0


def _check_certificate(certificate: str, key: str) -> None:
    """HostError if these files cannot be served with."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, "")
    except ssl.SSLError as error:
        what = error.reason or "no password is asked for"
        raise HostError(f"{certificate} and {key} are no certificate and its key: {what}") from error
    except OSError as error:
        raise HostError.of(f"cannot read {certificate} or {key}", error) from error


async def _end_with(server: Server, shown: Shown) -> None:
    """End once the one simulator has ended and no page has looked for a while."""
    idle = 0
    while idle < _IDLE_LOOKS:
        await asyncio.sleep(1)
        if not shown.simulators.are_there:
            await asyncio.to_thread(shown.simulators.chips)
        idle = idle + 1 if shown.simulators.are_over and not shown.hub.is_watched else 0
    server.end()


def _open(url: str) -> None:
    """Show it in a browser, where there is a screen for one."""
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        return
    import webbrowser

    if not webbrowser.open(url):
        sys.stderr.write("gpiovirt: no browser was found; open the link yourself\n")
