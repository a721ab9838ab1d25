"""The demo as the audience sees it: a live table in a terminal, plain lines elsewhere, the same summary at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wsconnkit.cli.demo.actor import Actor
from wsconnkit.cli.demo.stage import RULES, Stage, Tell
from wsconnkit.machines.closecodes import describe
from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import KIB
from wsconnkit.protocol.closeinfo import Initiator

_REFRESH = 0.1
_INITIATORS = {Initiator.LOCAL: "server", Initiator.PEER: "client", Initiator.TRANSPORT: "transport"}
_STYLES = {State.OPEN: "green", State.CLOSED: "dim"}

Show = Callable[[Stage, Console], Coroutine[Any, Any, None]]


@asynccontextmanager
async def _performance(stage: Stage, tell: Tell) -> AsyncIterator[asyncio.Future[None]]:
    """Play during the block, which ends when the play does, and break off where the block does."""
    playing = asyncio.ensure_future(stage.run(tell))
    try:
        yield playing
        await playing
    finally:
        playing.cancel()
        await asyncio.wait([playing])


async def plain_show(stage: Stage, console: Console) -> None:
    """Print what happens line by line, without control characters."""
    # Not printed where it is told, which is deep within the server: an error here must not be one there.
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def tell(who: str, what: str) -> None:
        lines.put_nowait(f"{stage.elapsed:5.1f} s  {who:<10} {what}")

    async with _performance(stage, tell) as playing:
        playing.add_done_callback(lambda _: lines.put_nowait(None))
        while (line := await lines.get()) is not None:
            click.echo(line)
    rows = _summary(stage.actors)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    click.echo()
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"\n{_verdict(stage.actors)}")


async def live_show(stage: Stage, console: Console) -> None:
    """Show a table that follows what happens."""
    async with _performance(stage, lambda who, what: None) as playing:
        with Live(_picture(stage), console=console, auto_refresh=False) as live:
            while not playing.done():
                await asyncio.wait([playing], timeout=_REFRESH)
                live.update(_picture(stage), refresh=True)
            live.update(_picture(stage, whole=True), refresh=True)
    head, *rows = _summary(stage.actors)
    table = Table(*head, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for actor, row in zip(stage.actors, rows, strict=True):
        table.add_row(*row[:-1], Text(row[-1], "green" if actor.as_expected else "bold red"))
    console.print(table, "", Text(_verdict(stage.actors), "bold"), sep="\n")


def _picture(stage: Stage, *, whole: bool = False) -> Group:
    """Return what is to be seen now; lines too long for the last column are cut unless it is to be `whole`."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("client", no_wrap=True)
    table.add_column("state\nlatency", no_wrap=True, min_width=9)
    table.add_column("in\nout", no_wrap=True, min_width=17)
    table.add_column("the server", ratio=1, no_wrap=not whole)
    for actor in stage.actors:
        name = Text.assemble((actor.name, "bold"), "\n", (actor.does, "dim"))
        table.add_row(name, _state(actor), _traffic(actor), _server(actor))
    doing = "shutting down" if stage.closing else stage.uri
    title = Text.assemble(("wsconnkit demo", "bold"), f"  {doing}  {stage.elapsed:.1f} s")
    return Group(title, Text(RULES, "dim"), table)


def _state(actor: Actor) -> Text:
    if actor.connection is None:
        return Text("not yet", "dim")
    state, latency = actor.connection.state, actor.connection.latency
    shown = "" if latency is None else f"\n{latency * 1000:.1f} ms"
    return Text.assemble((state.value.replace("_", " "), _STYLES.get(state, "yellow")), (shown, "cyan"))


def _traffic(actor: Actor) -> str:
    if actor.connection is None:
        return ""
    stats = actor.connection.stats
    return "\n".join(
        f"{messages:>3} msg {_size(size):>9}"
        for messages, size in (
            (stats.messages_received, stats.bytes_received),
            (stats.messages_sent, stats.bytes_sent),
        )
    )


def _size(size: int) -> str:
    return f"{size} B" if size < KIB else f"{size / KIB:.1f} KiB"


def _server(actor: Actor) -> Text:
    info = actor.close_info
    if info is None:
        return Text(actor.note)
    return Text.assemble((f"{info.code} {info.cause.value}", "bold"), f"\n{actor.why}")


def _summary(actors: Sequence[Actor]) -> list[list[str]]:
    rows = [["client", "code", "meaning", "cause", "begun by", "clean", "expected"]]
    for actor in actors:
        info = actor.close_info
        verdict = "yes" if actor.as_expected else actor.failure or f"no: {actor.code} {actor.cause.value}"
        if info is None:
            rows.append([actor.name, "-", "-", "-", "-", "-", verdict])
            continue
        code, meaning, cause = f"{info.code:d}", describe(info.code), info.cause.value
        clean = "yes" if info.clean else "no"
        rows.append([actor.name, code, meaning, cause, _INITIATORS[info.initiator], clean, verdict])
    return rows


def _verdict(actors: Sequence[Actor]) -> str:
    others = [actor.name for actor in actors if not actor.as_expected]
    if others:
        return f"Not as expected: {', '.join(others)}."
    return f"All {len(actors)} clients ended as expected."
