"""`fqlstream serve`: the REST API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, settings_for
from fqlstream.cli.output import print_text


def serve(
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; loopback unless you say otherwise.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key: everybody on this machine may do everything.")
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Speak TLS with this certificate (PEM).")
    ] = None,
    certificate_key: Annotated[
        Path | None, typer.Option("--certificate-key", metavar="FILE", help="The certificate's key (PEM).")
    ] = None,
    data: DataOption = None,
) -> None:
    """Serve the REST API, until Ctrl-C or SIGTERM.

    Where there is no key yet, one of an administrator is made and printed, this once.
    """
    from fqlstream.api.server import serve as serve_api

    settings = settings_for(data)
    given = {
        "port": port,
        "host": host,
        "auth": False if no_auth else None,
        "certificate_file": certificate,
        "certificate_key_file": certificate_key,
    }
    api = settings.api.model_copy(update={name: value for name, value in given.items() if value is not None})
    serve_api(
        settings.model_copy(update={"api": api}),
        on_ready=lambda address: print_text(f"listening at {address}"),
        on_first_key=lambda key: print_text(f"key of an administrator, shown this once: {key}"),
    )
