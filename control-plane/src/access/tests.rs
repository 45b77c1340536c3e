use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;

use super::*;

#[test]
fn every_rpc_stands_in_the_table_and_nothing_else() {
    let mut served = BTreeSet::new();
    let sets = [hauberk_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let reflection =
        [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET];
    for set in sets.into_iter().chain(reflection) {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    served.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
    }
    let table: BTreeSet<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(table.len(), TABLE.len(), "a path stands in the table twice");
    assert_eq!(table, served);
}

#[test]
fn what_is_missing_does_not_exist() {
    assert_eq!(access_to("/hauberk.admin.v1.Resources/Apply/"), None);
    assert_eq!(access_to("hauberk.admin.v1.Resources/Apply"), None);
    assert_eq!(access_to("/hauberk.admin.v1.resources/Apply"), None);
    assert_eq!(access_to(""), None);
}

#[test]
fn few_rpcs_are_public_and_each_for_a_reason() {
    let public: Vec<_> =
        TABLE.iter().filter(|(_, access)| *access == Access::Public).map(|(path, _)| *path).collect();
    assert_eq!(
        public,
        [
            "/hauberk.agent.v1.Enrollment/Attest",
            "/hauberk.admin.v1.Admins/Login",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        ],
        "each of them proves itself by a secret, or tells nothing"
    );
}
