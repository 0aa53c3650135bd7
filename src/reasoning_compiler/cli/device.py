"""`reasonc device`: what a machine runs so that others can measure on it."""

from __future__ import annotations

import ipaddress
import signal
from typing import Annotated

import typer

app = typer.Typer(
    name="device", help="Let other machines measure on this one.", rich_markup_mode=None, no_args_is_help=True
)
app.callback()(lambda: None)  # with one command alone, typer would leave its name out


@app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 9090,
    tracker: Annotated[str | None, typer.Option(help="RPC tracker to register with (HOST:PORT).")] = None,
    key: Annotated[str, typer.Option(help="Device key; required with a tracker.")] = "",
    threads: Annotated[
        int | None, typer.Option(help="Threads per program. Default: all physical cores.", min=1)
    ] = None,
) -> None:
    """Serve this machine to `reasonc tune --rpc`, until Ctrl-C.

    It is TVM's RPC server, which has neither passwords nor encryption: whoever can connect runs any code here. Use it
    in a network that you trust, or through an SSH tunnel.
    """
    from reasoning_compiler.core.errors import UsageError
    from reasoning_compiler.machine import chosen_threads, num_physical_cores, why_not_tvm
    from reasoning_compiler.measure.executors import device_server
    from reasoning_compiler.measure.executors.tracker import Address, Devices

    wrong = why_not_tvm()
    if wrong is not None:
        raise UsageError(wrong)
    num_threads = chosen_threads(threads, num_physical_cores())
    registers_at = Address.parse(tracker, name="tracker") if tracker is not None else None
    if registers_at is not None:
        Devices(registers_at, key).require_key()
    sock = device_server.listen(Address(host, port))
    where = f" and at the tracker {registers_at} as {key}" if registers_at is not None else ""
    typer.echo(f"serving {num_threads} threads on {Address(host, port)}{where}; Ctrl-C ends it", err=True)
    typer.echo("TVM's RPC has neither passwords nor encryption: whoever can connect runs any code here.", err=True)
    if not _is_loopback(host):
        typer.echo(
            f"warning: {host} can be reached from other machines; trust all of them, or bind to 127.0.0.1 "
            "and use an SSH tunnel",
            err=True,
        )
    elif registers_at is not None and not _is_loopback(registers_at.host):
        typer.echo(
            f"warning: {host} cannot be reached from other machines, also not by users of the tracker "
            f"{registers_at.host}: give `--host`, or use an SSH tunnel",
            err=True,
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends as with Ctrl-C, with its session
    try:
        device_server.serve(sock, key=key, tracker=registers_at, num_threads=num_threads)
    except KeyboardInterrupt:
        typer.echo("ended", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
