"""``comfy-remote worker``: runs the jobs of a gateway elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from .console import say
from .options import endpoint_option, engine_options
from .serving import engine_choices, read_token, serve_until_stopped, show_log

__all__ = ["worker"]

_TOKEN_VARIABLE = "COMFY_REMOTE_WORKER_TOKEN"  # noqa: S105  # its name, not its value


@click.command()
@click.option(
    "--join",
    "url",
    metavar="URL",
    required=True,
    help="The gateway: https://HOST:PORT, where comfy-remote serve runs.",
)
@endpoint_option
@click.option(
    "--name",
    metavar="NAME",
    help="The token's name, or that with a suffix: NAME.2. Default: the token's.",
)
@engine_options
@click.option(
    "--label",
    "labels",
    metavar="LABEL",
    multiple=True,
    help="What jobs may ask for: only workers with that label run them. Can be repeated.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"File that holds the worker's token. Default: the variable {_TOKEN_VARIABLE}.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The gateway's certificate (PEM), if it is its own.",
)
def worker(
    url: str,
    endpoint: str,
    name: str | None,
    engine: tuple[str, ...],
    comfyui: Path | None,
    gpus: str | None,
    labels: tuple[str, ...],
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    """Run the jobs of a gateway on another machine.

    It asks that gateway for jobs, so nothing has to reach this machine. The token comes from
    comfy-remote workers add, where the gateway runs. Ctrl-C lets the job that runs end first; a
    second Ctrl-C stops it and gives it back.

    \b
    Example:
      comfy-remote worker --join https://workshop.local:8000 --endpoint workshop \\
        --token-file attic.token --ca-file cert.pem
    """
    from ..advice import Hint
    from ..config.folders import home
    from ..errors import ConfigurationError
    from ..media.temporary import remove_leftovers
    from ..net.tls import trusting
    from ..worker.engines import Engines
    from ..worker.joined.machine import Join, JoinedMachine, name_in
    from ..worker.joined.spool import Spool, SpoolLimits
    from ..worker.settings import WorkerSettings
    from .advice import for_terminal

    show_log()
    token = read_token(token_file, _TOKEN_VARIABLE, advice=for_terminal(Hint.WORKER_TOKEN()))
    if token is None:
        raise ConfigurationError(
            f"There is no token: neither --token-file nor {_TOKEN_VARIABLE} is given.",
            advice=Hint.WORKER_TOKEN(),
        )
    own_name = name_in(token, name)
    join = Join(url, endpoint, own_name, token, labels, trusting(ca_file))
    spool = Spool(home() / "worker" / endpoint / own_name, SpoolLimits.from_environ())
    choices = engine_choices(comfyui, engine)
    machine = JoinedMachine(join, WorkerSettings.from_environ(), spool)
    remove_leftovers()

    async def whole() -> None:
        folder = home() / "engines" / f"{endpoint}-{own_name}"
        with await Engines.choose(choices, gpus=gpus, folder=folder) as engines:
            say(f"{'Waiting for' if engines.attached else 'Starting'} {engines} …")
            try:
                await machine.run(engines)
            finally:
                say("Stopping …")

    def drain() -> None:
        say("It stops when the job that runs has ended. Ctrl-C again stops that job now.")
        machine.drain()

    serve_until_stopped(whole(), drain)
