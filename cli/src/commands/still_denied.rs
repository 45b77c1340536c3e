//! What stays denied although `hauberk allow` has just permitted it: no permit lifts a forbid.

use hauberk_policy::{Access, Grant, GrantCaller};
use hauberk_proto::admin::v1::{CheckRequest, Outlook, Prospect, WhoCanRequest};
use hauberk_proto::turned_away::OfCaller;
use tonic::{Code, Status};

use crate::commands::served::{self, Served};
use crate::commands::{apply, prospect, who_can};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// Asks about each thing that a grant is exactly for, as `hauberk can` does, and warns of what is denied all the same.
/// What has been written stands, whatever comes of the question.
pub(crate) async fn warn(session: &Session, mesh: &str, grant: &Grant, target: &str) {
    let mut warnings = Vec::new();
    for question in questions(mesh, grant, target) {
        if let Err(why) = ask(session, grant, question, &mut warnings).await {
            let why = output::printable(&why);
            output::note(format_args!("whether anything denies it all the same could not be asked: {why}"));
            break;
        }
    }
    apply::tell_warnings(&warnings);
}

/// Asks one question: of each port by itself where that is left open, and several take it.
async fn ask(
    session: &Session,
    grant: &Grant,
    question: CheckRequest,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let told = |status: Status| status.message().to_owned();
    let (asked, of_several) = match session.policies().check(question.clone()).await {
        Ok(answer) => (vec![(question, answer.into_inner().prospects)], false),
        Err(status) if status.code() != Code::InvalidArgument => return Err(told(status)),
        Err(_) if question.port != 0 => return Ok(()),
        Err(_) => {
            let mut asked = Vec::new();
            let served = served::ports(session, &question.mesh, &grant.target).await;
            for Served { port, .. } in served.map_err(|why| why.to_string())? {
                let question = CheckRequest { port, ..question.clone() };
                match session.policies().check(question.clone()).await {
                    Ok(answer) => asked.push((question, answer.into_inner().prospects)),
                    // A port that takes no such thing, or is none of the service's.
                    Err(status) if status.code() == Code::InvalidArgument => {}
                    Err(status) => return Err(told(status)),
                }
            }
            (asked, true)
        }
    };
    for (question, prospects) in asked {
        for one in &prospects {
            let warning = match warning(&grant.access, &question, one, of_several) {
                None if is_perhaps_of_all(&grant.access, one) => {
                    let all = all_at(session, &question, one.port).await;
                    of_all(one, &all.map_err(|why| why.to_string())?)
                }
                warning => warning,
            };
            if let Some(warning) = warning.filter(|warning| !warnings.contains(warning)) {
                warnings.push(warning);
            }
        }
    }
    Ok(())
}

/// All that the caller could ask for at a port, also what it never can.
async fn all_at(session: &Session, asked: &CheckRequest, port: u32) -> Result<Vec<Prospect>, CommandError> {
    let request = WhoCanRequest {
        mesh: asked.mesh.clone(),
        target: asked.target.clone(),
        port,
        include_never: true,
        caller: asked.caller.clone(),
        ..WhoCanRequest::default()
    };
    who_can::all_pages(session, request).await
}

/// What is said of an answer, if it is a denial of what was granted. `of_several`: each port of the target was asked,
/// also those that the grant may not have been made for.
fn warning(access: &Access, asked: &CheckRequest, one: &Prospect, of_several: bool) -> Option<String> {
    if one.outlook() != Outlook::Never {
        return None;
    }
    let is_somewhere = !(one.node.is_empty() && one.external.is_empty());
    let why = prospect::settled(one);
    if OfCaller::named(&one.reason).is_some() {
        let (caller, called) = match is_somewhere {
            true => (prospect::caller(one), prospect::target(one)),
            // What the port does not speak is nowhere.
            false => (output::printable(&asked.caller), output::printable(&asked.target)),
        };
        return Some(format!("still denied: {caller} → {called}: {why}"));
    }
    let is_meant = match access {
        // Of everything no request was named: that the one that was asked about instead is denied says nothing of others.
        Access::All => one.action == "connect",
        Access::Rpc { .. } | Access::Http { .. } => !of_several || is_forbidden(one),
    };
    let (caller, called, action) = (prospect::caller(one), prospect::target(one), prospect::action(one));
    (is_meant && is_somewhere).then(|| format!("still denied: {caller} → {called} {action}: {why}"))
}

/// Whether a grant of everything may let nothing through at a port for requests, from what is answered of the one that was asked about
/// instead: a forbid of all would be of that one too, unless the port denies it as no declared route.
fn is_perhaps_of_all(access: &Access, one: &Prospect) -> bool {
    let is_somewhere = !(one.node.is_empty() && one.external.is_empty());
    *access == Access::All && is_somewhere && one.action != "connect" && is_denied(one)
}

/// What is said where forbids leave nothing of all that a caller could ask for at a port.
fn of_all(one: &Prospect, all: &[Prospect]) -> Option<String> {
    // A control plane of a former release tells of everybody.
    let is_own =
        |other: &&Prospect| other.caller == one.caller && other.port == one.port && !other.stands_for_others;
    let own: Vec<&Prospect> = all.iter().filter(is_own).collect();
    let is_total = own.iter().all(|other| is_denied(other)) && own.iter().any(|other| is_forbidden(other));
    if !is_total {
        return None;
    }
    let mut why: Vec<String> = Vec::new();
    for reason in own.iter().map(|other| prospect::settled(other)) {
        if !why.contains(&reason) {
            why.push(reason);
        }
    }
    let (caller, called) = (prospect::caller(one), prospect::target(one));
    Some(format!("still denied: {caller} → {called}, whatever it asks for: {}", why.join("; ")))
}

fn is_denied(one: &Prospect) -> bool {
    one.outlook() == Outlook::Never && (is_forbidden(one) || one.reason == "undeclared_route")
}

fn is_forbidden(one: &Prospect) -> bool {
    one.reason.starts_with("forbidden")
}

/// Those that can be asked: of callers by name, and of paths that are no patterns. A grant of everything is asked about
/// without a path: of ports for requests the answer tells then who is turned away, and whether all may be denied.
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

    fn never(action: &str, reason: &str) -> Prospect {
        Prospect {
            caller: "spiffe://shop.example/mesh/shop/node/web".to_owned(),
            node: "spiffe://shop.example/mesh/shop/node/orders".to_owned(),
            port: 8080,
            action: action.to_owned(),
            outlook: Outlook::Never.into(),
            reason: reason.to_owned(),
            policies: vec!["no-root".to_owned()],
            ..Prospect::default()
        }
    }

    fn told(access: &Access, one: &Prospect, of_several: bool) -> Option<String> {
        let asked =
            CheckRequest { caller: "web".to_owned(), target: "orders".to_owned(), ..CheckRequest::default() };
        warning(access, &asked, one, of_several)
    }

    #[test]
    fn of_a_grant_of_everything_no_path_is_made_up() {
        let told = |one: &Prospect| told(&Access::All, one, false);
        // A grpc port has no method `/`, one with `undeclared: DENY` no such route, and a forbid may be of it alone.
        let nowhere = Prospect { reason: "wrong_protocol".to_owned(), ..never("", "") };
        let nowhere = Prospect { node: String::new(), caller: String::new(), port: 0, ..nowhere };
        for one in [&nowhere, &never("GET", "undeclared_route"), &never("GET", "forbidden")] {
            assert_eq!(told(one), None, "{one:?}");
        }
        assert_eq!(
            told(&never("connect", "forbidden")).unwrap(),
            "still denied: web → orders:8080 connect: no-root forbids it"
        );
        // Who is turned away is so whatever it asks for, also of a port that speaks no such thing.
        let of_caller = ": every agent refuses it: its node is in quarantine";
        let held = never("GET", "quarantined");
        assert_eq!(told(&held).unwrap(), format!("still denied: web → orders:8080{of_caller}"));
        let held = Prospect { reason: "quarantined".to_owned(), ..nowhere };
        assert_eq!(told(&held).unwrap(), format!("still denied: web → orders{of_caller}"));
        assert_eq!(told(&Prospect { outlook: Outlook::Conditional.into(), ..held }), None);
    }

    #[test]
    fn a_forbid_of_all_is_told_where_all_is_denied_by_it() {
        let asked = never("GET", "forbidden");
        assert!(is_perhaps_of_all(&Access::All, &asked));
        assert!(is_perhaps_of_all(&Access::All, &never("GET", "undeclared_route")));
        for other in
            [never("connect", "forbidden"), never("GET", "no_policy_matched"), never("GET", "quarantined")]
        {
            assert!(!is_perhaps_of_all(&Access::All, &other), "{other:?}");
        }
        let nowhere = Prospect { node: String::new(), ..asked.clone() };
        let open = Prospect { outlook: Outlook::Conditional.into(), ..asked.clone() };
        let by_path = Access::Http { methods: vec!["GET".to_owned()], path: None };
        assert!(!is_perhaps_of_all(&Access::All, &nowhere) && !is_perhaps_of_all(&Access::All, &open));
        assert!(!is_perhaps_of_all(&by_path, &asked));

        let everything = "still denied: web → orders:8080, whatever it asks for: no-root forbids it";
        let all = [asked.clone(), never("POST", "forbidden"), never("upgrade", "forbidden_by_boundary")];
        assert_eq!(of_all(&asked, &all).as_deref(), Some(everything));
        // Of others it says nothing, nor of another port.
        let others = Prospect { stands_for_others: true, outlook: Outlook::Always.into(), ..asked.clone() };
        let orders = "spiffe://shop.example/mesh/shop/node/orders".to_owned();
        let orders = Prospect { caller: orders, outlook: Outlook::Always.into(), ..asked.clone() };
        let elsewhere = Prospect { port: 9090, outlook: Outlook::Always.into(), ..asked.clone() };
        let beside = [&all[..], &[others, orders, elsewhere]].concat();
        assert_eq!(of_all(&asked, &beside).as_deref(), Some(everything));
        let undeclared = [asked.clone(), never("GET", "undeclared_route")];
        assert_eq!(
            of_all(&asked, &undeclared).unwrap(),
            format!("{everything}; the port denies what is no declared route")
        );
        for let_through in [open, never("PUT", "no_policy_matched")] {
            assert_eq!(of_all(&asked, &[asked.clone(), let_through]), None, "it is not all");
        }
        assert_eq!(of_all(&asked, &[never("GET", "undeclared_route")]), None, "nothing forbids it");
        assert_eq!(of_all(&asked, &[]), None, "nothing is known");
    }

    #[test]
    fn what_was_granted_by_its_path_is_told_as_it_is() {
        let access = Access::Http { methods: vec!["GET".to_owned()], path: None };
        let forbidden = "still denied: web → orders:8080 GET: no-root forbids it";
        assert_eq!(told(&access, &never("GET", "forbidden"), false).unwrap(), forbidden);
        assert_eq!(told(&access, &never("GET", "forbidden"), true).unwrap(), forbidden);
        let undeclared = never("GET", "undeclared_route");
        assert!(told(&access, &undeclared, false).is_some_and(|told| told.contains("no declared route")));
        assert_eq!(told(&access, &undeclared, true), None, "another port may be meant");
        assert_eq!(told(&access, &Prospect { node: String::new(), ..undeclared }, false), None);
    }
}
