//! The messages and services of Hauberk, generated from the `.proto` files beside this crate, and
//! their conversions to and from the domain types of `hauberk-identity` and `hauberk-policy`.
#![forbid(unsafe_code)]

pub mod convert;
pub mod refusal;
pub mod turned_away;

/// Resources: what files hold and what the admin API moves.
pub mod mesh {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
    #[allow(clippy::allow_attributes_without_reason, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("hauberk.mesh.v1");
    }
}

/// The admin API.
pub mod admin {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
    #[allow(clippy::allow_attributes_without_reason, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("hauberk.admin.v1");
    }
}

/// The agent API.
pub mod agent {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
    #[allow(clippy::allow_attributes_without_reason, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("hauberk.agent.v1");
    }
}

/// The SPIFFE Workload API.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod workload {
    tonic::include_proto!("_");
}

/// Envoy's Secret Discovery Service and gRPC's details of errors, in modules named as their packages are.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
#[allow(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod sds {
    include!(concat!(env!("OUT_DIR"), "/sds.rs"));
}

/// An encoded `google.protobuf.FileDescriptorSet` of our own services and resources and what it imports, for
/// reflection and for reading files by the messages' own shape.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hauberk.binpb"));

/// An encoded `google.protobuf.FileDescriptorSet` of what agents serve to programs, the Workload API and SDS, for
/// reflection.
pub const WORKLOAD_API_FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/workload_api.binpb"));

/// An encoded `google.protobuf.FileDescriptorSet` of the resources alone, with the comments of their definitions: what
/// `hauberk explain` tells of their fields. Only a program that names it carries it.
pub const DOCUMENTED_FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/documented.binpb"));
