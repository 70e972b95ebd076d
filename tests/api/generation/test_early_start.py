"""The begin of a stream on its socket."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter
from aiohttp.test_utils import make_mocked_request

from mlx_worker.api.generation.early_start import begin_response


async def test_headers_and_first_event_are_one_write() -> None:
    loop = asyncio.get_running_loop()
    transport = Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    protocol = BaseProtocol(loop)
    protocol.connection_made(transport)
    request = make_mocked_request(
        "POST", "/v1/chat/completions", writer=StreamWriter(protocol, loop), transport=transport
    )
    begun = await begin_response(request, {"X-Model": "tiny"})
    await begun.response.write(b"data: {}\n\n")
    transport.writelines.assert_not_called()
    ((data,), _) = transport.write.call_args
    assert transport.write.call_count == 1
    assert b"X-Model: tiny\r\n" in data
    assert data.endswith(b"\r\n\r\na\r\ndata: {}\n\n\r\n")
