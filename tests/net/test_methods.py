"""Every RPC of the .proto files has its constant, of the kind and types it is declared with."""

from __future__ import annotations

import pytest

from engine.net import methods
from engine.net.pb import control_pb2, instance_pb2, storage_pb2
from engine.ports import Method

ALL = [value for value in vars(methods).values() if isinstance(value, Method)]


def test_every_declared_rpc_has_a_constant() -> None:
    declared = {
        f"/{service.full_name}/{method.name}"
        for file in (control_pb2, instance_pb2, storage_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {method.path for method in ALL} == declared
    assert len(ALL) == len(declared)


@pytest.mark.parametrize(
    ("method", "client", "server"),
    [
        (methods.APPEND, True, True),
        (methods.FOLLOW, True, True),
        (methods.IMPORT, True, False),
        (methods.EXPORT, False, True),
        (methods.WATCH_CLUSTER, False, True),
        (methods.READ_PAGES, False, False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_streaming_is_as_declared(
    method: Method[storage_pb2.AppendRequest, storage_pb2.AppendAck], client: bool, server: bool
) -> None:
    assert (method.client_streaming, method.server_streaming) == (client, server)


def test_wrong_message_type_is_noticed_on_import() -> None:
    with pytest.raises(TypeError, match="Append is declared with other messages"):
        methods._method(
            storage_pb2.DESCRIPTOR, "Append", storage_pb2.AppendAck, storage_pb2.AppendAck
        )
