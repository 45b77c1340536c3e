//! Compiles the `.proto` files without protoc and keeps their descriptors for reflection.

use std::{error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 19] = [
    "hauberk/mesh/v1/resource.proto",
    "hauberk/mesh/v1/specs.proto",
    "hauberk/agent/v1/enrollment.proto",
    "hauberk/agent/v1/view.proto",
    "hauberk/agent/v1/denylist.proto",
    "hauberk/agent/v1/workloads.proto",
    "hauberk/agent/v1/identity.proto",
    "hauberk/agent/v1/sync.proto",
    "hauberk/agent/v1/svid_tokens.proto",
    "hauberk/admin/v1/resources.proto",
    "hauberk/admin/v1/policies.proto",
    "hauberk/admin/v1/record.proto",
    "hauberk/admin/v1/identities.proto",
    "hauberk/admin/v1/admins.proto",
    "hauberk/admin/v1/revocations.proto",
    "hauberk/admin/v1/operations.proto",
    "hauberk/admin/v1/authorities.proto",
    "hauberk/admin/v1/federation.proto",
    "google/protobuf/timestamp.proto",
];

/// What others have defined, and agents serve. No part of our own API: reflection tells of it at the agents' socket
/// alone.
const FOREIGN: [&str; 1] = ["workload.proto"];
const ENVOY: [&str; 3] = ["envoy/sds.proto", "envoy/secret.proto", "google/rpc/error_details.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=foreign");
    let descriptors = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?
        .file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Comments are for the generated docs and for `hauberk explain`; reflection does not need them.
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("hauberk.binpb"), bare.encode_to_vec())?;
    let mut documented = descriptors.clone();
    documented.file.retain(|file| ["google.protobuf", "hauberk.mesh.v1"].contains(&file.package()));
    for file in &mut documented.file {
        let places = file.source_code_info.iter_mut().flat_map(|info| &mut info.location);
        places.for_each(|place| place.span.clear());
        if let Some(info) = &mut file.source_code_info {
            info.location.retain(|place| place.leading_comments.is_some());
        }
    }
    fs::write(out.join("documented.binpb"), documented.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".hauberk.agent.v1.SignedView")
        .bytes(".hauberk.agent.v1.SignedDenylist")
        .bytes(".hauberk.agent.v1.RevocationList")
        .compile_fds(descriptors)?;
    let foreign =
        protox::Compiler::new(["foreign"])?.include_imports(true).open_files(FOREIGN)?.file_descriptor_set();
    let envoy =
        protox::Compiler::new(["foreign"])?.include_imports(true).open_files(ENVOY)?.file_descriptor_set();
    let mut served = foreign.clone();
    served.file.extend(envoy.file.iter().cloned());
    fs::write(out.join("workload_api.binpb"), served.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(foreign)?;
    tonic_prost_build::configure().include_file("sds.rs").compile_fds(envoy)?;
    Ok(())
}
