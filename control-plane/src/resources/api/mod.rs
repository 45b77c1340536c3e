//! Routes from the description of an interface: an OpenAPI document, or a protobuf descriptor set.

mod json;
mod openapi;
mod protobuf;
mod yaml;

#[cfg(test)]
mod tests;

use hauberk_policy::{DeclaredRoute, Protocol, RouteTemplate};
use hauberk_proto::mesh::v1 as wire;
use wire::api_description::Description;

use super::problem::Problems;

/// The most routes that a description says.
const MOST_FOUND: usize = 1_000;
/// The most flaws that are told of one.
const MOST_FLAWS: usize = 20;

/// Of how many routes it is told what they stand for.
const MOST_TOLD: usize = 5;

/// Something of a description that cannot be understood: where, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flaw {
    /// Such as `paths./orders/{id}.get`; empty for the whole.
    at: String,
    message: String,
}

impl Flaw {
    fn at(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: at.into(), message: message.into() }
    }
}

/// What a description says.
struct Described {
    routes: Vec<DeclaredRoute>,
    /// Places whose requests are of one route though the description tells them apart, those of one route in one text.
    shared: Vec<String>,
}

/// The routes that a description says, beside those that are declared by hand, which win where they match the same
/// paths. Reports everything of it that cannot be understood.
pub(super) fn routes(
    api: &wire::ApiDescription,
    declared: &[DeclaredRoute],
    protocol: Protocol,
    field: &str,
    problems: &mut Problems,
) -> Vec<DeclaredRoute> {
    let (field, read) = match (&api.description, protocol) {
        (Some(Description::Openapi(text)), Protocol::Http | Protocol::Http2) => {
            (format!("{field}.openapi"), openapi::routes(text, problems.are_of_stored()))
        }
        (Some(Description::Protobuf(bytes)), Protocol::Grpc) => {
            let read = protobuf::routes(bytes).map(|routes| Described { routes, shared: Vec::new() });
            (format!("{field}.protobuf"), read)
        }
        (Some(Description::Openapi(_)), _) => {
            let help = "OpenAPI describes http and http2; write protobuf: for grpc";
            problems.invalid_but(
                format!("{field}.openapi"),
                "it does not fit what the listener speaks",
                help,
            );
            return Vec::new();
        }
        (Some(Description::Protobuf(_)), _) => {
            let help = "a descriptor set describes grpc; write openapi: for http and http2";
            problems.invalid_but(
                format!("{field}.protobuf"),
                "it does not fit what the listener speaks",
                help,
            );
            return Vec::new();
        }
        (None, _) => {
            problems.invalid_but(field, "it says nothing", "write openapi: or protobuf:");
            return Vec::new();
        }
    };
    match read {
        Ok(found) if found.routes.len() > MOST_FOUND => {
            problems.invalid(field, format!("it says more than {MOST_FOUND} routes, which are the most"));
            Vec::new()
        }
        Ok(Described { routes, shared }) => {
            warn_of_shared(&field, &shared, problems);
            routes.into_iter().filter_map(|route| beside(route, declared)).collect()
        }
        Err(flaws) => {
            for Flaw { at, message } in flaws.into_iter().take(MOST_FLAWS) {
                let place = if at.is_empty() { String::new() } else { format!("{at}: ") };
                problems.invalid(field.clone(), format!("{place}{message}"));
            }
            Vec::new()
        }
    }
}

fn warn_of_shared(field: &str, shared: &[String], problems: &mut Problems) {
    if shared.is_empty() {
        return;
    }
    let told = shared.iter().take(MOST_TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = shared.len().saturating_sub(MOST_TOLD);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    problems.warn(format!(
        "{field}: no path tells these apart, so that each is one route, with the data classes of all: {told}{more}"
    ));
}

/// What of a route is left beside those that were declared by hand.
fn beside(route: DeclaredRoute, declared: &[DeclaredRoute]) -> Option<DeclaredRoute> {
    let same =
        || declared.iter().map(|own| &own.template).filter(|own| own.is_of_same_paths(&route.template));
    if same().any(|own| own.methods().is_empty()) || (route.template.is_rpc() && same().next().is_some()) {
        return None;
    }
    let methods = route.template.methods();
    let left: Vec<&str> =
        methods.iter().map(String::as_str).filter(|method| !same().any(|own| own.is_for(method))).collect();
    if left.len() == methods.len() {
        return Some(route);
    }
    let (_, path) = route.template.as_str().split_once(' ')?;
    let template = RouteTemplate::parse(&format!("{} {path}", left.join(","))).ok()?;
    Some(DeclaredRoute { template, ..route })
}
