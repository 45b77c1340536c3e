//! A protobuf `FileDescriptorSet`, as `protoc --descriptor_set_out` and `buf build` write it: its services' methods.

use std::collections::HashSet;

use hauberk_policy::{DeclaredRoute, MethodAccess, RouteTemplate};
use prost::Message;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use super::Flaw;

/// The methods of all services, in the set's order.
pub(super) fn routes(bytes: &[u8]) -> Result<Vec<DeclaredRoute>, Vec<Flaw>> {
    let set = FileDescriptorSet::decode(bytes)
        .map_err(|error| vec![Flaw::at("", format!("this is no FileDescriptorSet: {error}"))])?;
    let mut routes: Vec<DeclaredRoute> = Vec::new();
    let mut flaws = Vec::new();
    let mut known = HashSet::new();
    for file in &set.file {
        for service in &file.service {
            let package = match file.package() {
                "" => String::new(),
                package => format!("{package}."),
            };
            let service_name = format!("{package}{}", service.name());
            for method in &service.method {
                let text = format!("{service_name}/{}", method.name());
                match RouteTemplate::parse(&text) {
                    Ok(template) if template.is_rpc() && !template.as_str().contains(['*', '{']) => {
                        if !known.insert(text.clone()) {
                            flaws.push(Flaw::at(file.name(), format!("{text} stands there twice")));
                        }
                        routes.push(DeclaredRoute { access: access(method), ..template.into() });
                    }
                    Ok(_) => flaws.push(Flaw::at(file.name(), format!("{text:?} is no method"))),
                    Err(error) => flaws.push(Flaw::at(file.name(), format!("{text:?}: {error}"))),
                }
            }
        }
    }
    if routes.is_empty() && flaws.is_empty() {
        flaws.push(Flaw::at("", "it has no services"));
    }
    if flaws.is_empty() { Ok(routes) } else { Err(flaws) }
}

/// What does not change anything says so; whatever says less may change something.
fn access(method: &MethodDescriptorProto) -> MethodAccess {
    match method.options.as_ref().map(|options| options.idempotency_level()) {
        Some(IdempotencyLevel::NoSideEffects) => MethodAccess::Read,
        Some(IdempotencyLevel::Idempotent | IdempotencyLevel::IdempotencyUnknown) | None => {
            MethodAccess::Write
        }
    }
}
