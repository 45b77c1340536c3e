//! What of a `FileDescriptorSet` routes are made of: the methods of its services.

use prost::Message as _;
use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions, ServiceDescriptorProto,
};

use super::Flaw;

/// The reduced set, encoded. Of the options only what says whether a method changes anything is kept.
pub(super) fn reduced(bytes: &[u8]) -> Result<Vec<u8>, Flaw> {
    let set = FileDescriptorSet::decode(bytes)
        .map_err(|error| Flaw::whole(format!("this is no FileDescriptorSet: {error}")))?;
    let file = set.file.into_iter().filter(|file| !file.service.is_empty()).map(|file| FileDescriptorProto {
        name: file.name,
        package: file.package,
        service: file.service.into_iter().map(service).collect(),
        ..FileDescriptorProto::default()
    });
    Ok(FileDescriptorSet { file: file.collect() }.encode_to_vec())
}

fn service(of: ServiceDescriptorProto) -> ServiceDescriptorProto {
    let method = of.method.into_iter().map(|method| MethodDescriptorProto {
        name: method.name,
        input_type: None,
        output_type: None,
        options: method
            .options
            .and_then(|options| options.idempotency_level)
            .map(|level| MethodOptions { idempotency_level: Some(level), ..MethodOptions::default() }),
        client_streaming: method.client_streaming,
        server_streaming: method.server_streaming,
    });
    ServiceDescriptorProto { name: of.name, method: method.collect(), options: None }
}
