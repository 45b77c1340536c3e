"""Lists virtual nodes over the admin API, with stock gRPC and nothing generated: the messages come by reflection.

    pip install grpcio grpcio-reflection
    hauberk context export --dir ./credential
    python3 list_nodes.py localhost:7444 ./credential
"""

import pathlib
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main(target: str, folder: str) -> None:
    """Connects with the exported credential and prints every virtual node as JSON."""
    read = lambda name: (pathlib.Path(folder) / name).read_bytes()
    credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("key.pem"), read("cert.pem"))
    with grpc.secure_channel(target, credentials) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        print("services:", ", ".join(sorted(database.get_services())))
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("hauberk.admin.v1.Resources").FindMethodByName("List")
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/hauberk.admin.v1.Resources/List",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        print(json_format.MessageToJson(call(request(kind=2), timeout=10)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
