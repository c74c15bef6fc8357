"""A client that has never seen the .proto files.

Learns the contract by reflection, then lists endpoints, adds one, watches one
change, reads the failure queue, and asks for health. Usage:

    client.py CONTROL PROXY_ADMIN BASE_URL
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

TIMEOUT = 20  # Seconds; met only when something is wrong.


class Service:
    """One service, its methods callable by name with a dictionary of fields."""

    def __init__(self, channel, pool, name):
        self._channel = channel
        self._descriptor = pool.FindServiceByName(name)

    def __getattr__(self, method):
        descriptor = self._descriptor.methods_by_name[method]
        request = GetMessageClass(descriptor.input_type)
        connect = (
            self._channel.unary_stream
            if descriptor.server_streaming
            else self._channel.unary_unary
        )
        call = connect(
            f"/{self._descriptor.full_name}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        return lambda **fields: call(request(**fields), timeout=TIMEOUT)


def services_by_v1(channel):
    """Names of services, by the newer reflection protocol."""
    # Its messages are those of v1alpha under another name.
    from grpc_reflection.v1alpha import reflection_pb2

    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(call(iter([request]), timeout=TIMEOUT))
    return {service.name for service in answer.list_services_response.service}


def check_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest(service="")
    assert health.Check(request, timeout=TIMEOUT).status == serving
    watch = health.Watch(request, timeout=TIMEOUT)
    assert next(watch).status == serving
    watch.cancel()


def expect(code, call):
    """Calls and returns the error, which must have this code."""
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"expected {code}, got {answer}")


def main(control, proxy, base_url):
    channel = grpc.insecure_channel(control)
    database = ProtoReflectionDescriptorDatabase(channel)
    names = set(database.get_services())
    assert names == services_by_v1(channel), names
    assert "qcc.v1.EndpointService" in names, names
    pool = DescriptorPool(database)
    endpoints = Service(channel, pool, "qcc.v1.EndpointService")
    queue = Service(channel, pool, "qcc.v1.FailureQueueService")

    listed = endpoints.ListEndpoints(page_size=1)
    assert [endpoint.name for endpoint in listed.endpoints] == ["a"], listed
    listed = endpoints.ListEndpoints(page_token=listed.next_page_token)
    assert [endpoint.name for endpoint in listed.endpoints] == ["b"], listed

    watch = endpoints.WatchEndpoints(resume_from=listed.view)
    new = {"name": "from-python", "base_url": base_url}
    created = endpoints.CreateEndpoint(endpoint=new, request_id="python-1").endpoint
    again = endpoints.CreateEndpoint(endpoint=new, request_id="python-1").endpoint
    assert created.etag == again.etag, (created, again)
    assert created.generation == again.generation, (created, again)
    expect(
        grpc.StatusCode.ALREADY_EXISTS, lambda: endpoints.CreateEndpoint(endpoint=new)
    )
    for step in watch:
        if any(endpoint.name == "from-python" for endpoint in step.endpoints):
            break
    watch.cancel()

    entries = queue.ListFailures().entries
    assert [entry.endpoint for entry in entries] == ["b"], entries
    cause = entries[0].DESCRIPTOR.fields_by_name["cause"].enum_type
    assert entries[0].cause == cause.values_by_name["CAUSE_AUTH"].number, entries
    assert queue.GetFailureQueueStats().stats.total_failed == 1
    expect(
        grpc.StatusCode.NOT_FOUND, lambda: endpoints.GetEndpoint(name="nobody")
    )
    error = expect(
        grpc.StatusCode.INVALID_ARGUMENT,
        lambda: endpoints.CreateEndpoint(endpoint={"name": "NO"}),
    )
    details = dict(error.trailing_metadata())
    assert "grpc-status-details-bin" in details, details
    check_health(channel)

    channel = grpc.insecure_channel(proxy)
    database = ProtoReflectionDescriptorDatabase(channel)
    admin = Service(channel, DescriptorPool(database), "qcc.v1.ProxyAdminService")
    assert admin.GetProxyStatus().status.ready
    names = [endpoint.name for endpoint in admin.ListProxyEndpoints().endpoints]
    assert names[:2] == ["a", "b"], names
    check_health(channel)


if __name__ == "__main__":
    main(*sys.argv[1:])
