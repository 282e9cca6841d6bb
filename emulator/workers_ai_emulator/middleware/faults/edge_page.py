"""The HTML page of an error that Cloudflare's edge servers send instead of the service's JSON.

The edge servers send such a page if the service behind them fails: so a client gets HTML, although
it called an API. The text of the page is ours.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

# The names of the statuses that only Cloudflare uses
# [developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors].
_NAMES = {
    520: "Web server returned an unknown error",
    521: "Web server is down",
    522: "Connection timed out",
    523: "Origin is unreachable",
    524: "A timeout occurred",
    525: "SSL handshake failed",
    526: "Invalid SSL certificate",
}
_PAGE = """\
<!DOCTYPE html>
<html lang="en-US">
<head>
<title>{status}: {name}</title>
<meta charset="UTF-8">
</head>
<body>
<h1>{name} <span>Error code {status}</span></h1>
<p>An edge server of Cloudflare could not get a response from the service behind it.</p>
<p>The emulator sent this page because a test requested the fault edge-error.</p>
</body>
</html>
"""


def edge_page(status: int) -> Response:
    """Returns the response of an edge server: an HTML page with the HTTP status and its name.

    `middleware/edge.py` adds the headers `server` and `cf-ray`, as to every response.
    """
    page = _PAGE.format(status=status, name=_name(status))
    return Response(page, status, {"content-type": "text/html; charset=UTF-8"})


def _name(status: int) -> str:
    try:
        return _NAMES.get(status) or HTTPStatus(status).phrase
    except ValueError:  # a status that neither Cloudflare nor HTTP defines
        return "Unknown error"
