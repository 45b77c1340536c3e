//! What stays denied although `hauberk allow` has just permitted it: no permit lifts a forbid.

use hauberk_policy::{Access, Grant, GrantCaller};
use hauberk_proto::admin::v1::{CheckRequest, Outlook};
use tonic::Code;

use crate::commands::{apply, prospect};
use crate::output;
use crate::session::Session;

/// Asks about each thing that a grant is exactly for, as `hauberk can` does, and warns of what is denied all the same.
/// What has been written stands, whatever comes of the question.
pub(crate) async fn warn(session: &Session, mesh: &str, grant: &Grant, target: &str) {
    let mut warnings = Vec::new();
    for request in questions(mesh, grant, target) {
        let answer = match session.policies().check(request).await {
            Ok(answer) => answer.into_inner(),
            // A grant of everything can be asked about on TCP ports alone; so can a target of one port.
            Err(status) if status.code() == Code::InvalidArgument => continue,
            Err(status) => {
                let why = status.message();
                output::note(format_args!(
                    "whether anything denies it all the same could not be asked: {why}"
                ));
                return;
            }
        };
        for prospect in answer.prospects.iter().filter(|one| one.outlook() == Outlook::Never) {
            let (caller, called) = (prospect::caller(prospect), prospect::target(prospect));
            let (action, why) = (prospect::action(prospect), prospect::settled(prospect));
            let warning = format!("still denied: {caller} → {called} {action}: {why}");
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    apply::tell_warnings(&warnings);
}

/// Those that can be asked: of callers by name, and of paths that are no patterns.
fn questions(mesh: &str, grant: &Grant, target: &str) -> Vec<CheckRequest> {
    let asked: Vec<(String, String)> = match &grant.access {
        Access::All => vec![(String::new(), String::new())],
        Access::Rpc { service, method: Some(method) } => vec![(String::new(), format!("{service}/{method}"))],
        Access::Http { methods, path: Some(path) } => {
            let Some(path) = path.as_exact() else { return Vec::new() };
            methods.iter().map(|method| (method.clone(), path.to_owned())).collect()
        }
        Access::Rpc { .. } | Access::Http { .. } => Vec::new(),
    };
    let callers = grant.callers.iter().filter_map(|caller| match caller {
        GrantCaller::Node(name) => Some(name.to_string()),
        GrantCaller::Gateway(name) => Some(format!("gateway/{name}")),
        GrantCaller::Foreign(id) | GrantCaller::Workload(id) => Some(id.to_string()),
        GrantCaller::Anonymous => Some("anonymous".to_owned()),
        GrantCaller::Role(_) => None,
    });
    let of = |caller: String| {
        let asked = asked.clone().into_iter();
        asked.map(move |(method, path)| CheckRequest {
            mesh: mesh.to_owned(),
            caller: caller.clone(),
            target: target.to_owned(),
            port: grant.port.map_or(0, u32::from),
            method,
            path,
            ..CheckRequest::default()
        })
    };
    callers.flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;
    use hauberk_policy::{GrantTarget, PathPattern};

    use super::*;

    #[test]
    fn what_is_granted_exactly_is_asked_about() {
        let name = |text: &str| Name::parse(text).unwrap();
        let asked = |access: Access| {
            let callers = vec![GrantCaller::Node(name("web")), GrantCaller::Role(name("clerks"))];
            let target = GrantTarget::Service(name("orders"));
            let questions = questions("shop", &Grant { callers, target, port: None, access }, "orders");
            assert!(questions.iter().all(|one| one.caller == "web" && one.target == "orders"));
            questions.into_iter().map(|one| format!("{} {}", one.method, one.path)).collect::<Vec<_>>()
        };
        let http = |path: &str| {
            let methods = ["GET", "POST"].map(str::to_owned).to_vec();
            asked(Access::Http { methods, path: Some(PathPattern::parse(path).unwrap()) })
        };
        assert_eq!(http("/charge"), ["GET /charge", "POST /charge"]);
        assert_eq!(http("/charge/*"), [""; 0], "a part of it may well be forbidden");
        assert_eq!(asked(Access::rpc("shop.Orders/Get").unwrap()), [" shop.Orders/Get"]);
        assert_eq!(asked(Access::rpc("shop.Orders/*").unwrap()), [""; 0]);
        assert_eq!(asked(Access::All), [" "]);
    }
}
