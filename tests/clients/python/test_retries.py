"""The service config that is shipped for clients: which calls may be repeated blindly."""

import json

import grpc
from calls import SERVICE_CONFIG
from fusewire.v1 import circuit_breakers_pb2
from fusewire.v1 import conversation_threads_pb2 as pb
from fusewire.v1 import conversation_threads_pb2_grpc as pb_grpc


def test_the_service_config_names_methods_of_the_contract_and_retries_unavailable_alone():
    """A renamed method would silently lose its retries."""
    contract = (pb.DESCRIPTOR, circuit_breakers_pb2.DESCRIPTOR)
    services = {service.full_name: service for file in contract for service in file.services_by_name.values()}
    for config in json.loads(SERVICE_CONFIG.read_text())["methodConfig"]:
        assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
        for name in config["name"]:
            service = services[name["service"]]
            assert name["method"] in service.methods_by_name, name


def test_a_channel_takes_the_service_config(shared):
    """grpc refuses a malformed one at the first call."""
    options = [("grpc.service_config", SERVICE_CONFIG.read_text()), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(shared.a.address, options=options) as channel:
        threads = pb_grpc.ConversationThreadsStub(channel)
        threads.CreateThread(pb.CreateThreadRequest(thread=pb.ConversationThread(id="retried")))
        assert threads.GetThread(pb.GetThreadRequest(thread_id="retried")).thread.id == "retried"
