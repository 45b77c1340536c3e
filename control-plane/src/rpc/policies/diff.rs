//! What a draft changes for whom, a page at a time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use hauberk_identity::Name;
use hauberk_policy::{Action, Caller, Survey};
use hauberk_proto::admin::v1::{Clause, Difference, Outlook, Prospect};
use prost::Message;
use tonic::Status;

use super::cells::{At, Found, Position, Spoken, Wanted, named, page};
use super::mesh::{self, Mesh, Somebody};
use super::prospect::{Place, encode_prospect};
use super::turned_away::{Known, TurnedAway};

/// What differs between two states of a mesh.
pub(super) fn differences(
    before: Option<&Mesh<'_>>,
    after: &Mesh<'_>,
    from: Position,
) -> Result<Found<Difference>, Status> {
    let callers = callers(before, after);
    let is_any_moved = callers.iter().any(|caller| caller.is_moved);
    let places = places(before, after);
    let wanted =
        Wanted { ports: None, spoken: Spoken::Anything, method: None, path: None, include_never: true };
    page(places.len(), callers.len(), from, |place, callers_of, budget| {
        let Some(Change { before: place_before, after: place_after }) = places.get(place) else {
            return Ok(Vec::new());
        };
        let Some((id, external)) = place_after.or(*place_before).map(|place| named(after, place)) else {
            return Ok(Vec::new());
        };
        let former = before.zip(*place_before);
        let latter = place_after.map(|place| (after, place));
        let has_same_rules = former.and_then(|(mesh, place)| mesh.rules(place))
            == latter.and_then(|(mesh, place)| mesh.rules(place));
        if has_same_rules && !is_any_moved {
            callers_of.skip();
            budget.spare_node();
            return Ok(Vec::new());
        }
        let engine_before = former.map(|(mesh, place)| mesh.engine(place)).transpose()?;
        let engine_after = match (latter, &engine_before) {
            (Some(_), Some(same)) if has_same_rules => Some(same.clone()),
            (Some((mesh, place)), _) => Some(mesh.engine(place)?),
            (None, _) => None,
        };
        let sides = [&engine_before, &engine_after];
        let sides = sides.map(|engine| engine.as_ref().map(|engine| At { engine, node: &id, external }));
        let [surveys_before, surveys_after] = sides.map(|at| at.map(|at| at.surveys(&wanted)));
        let surveys_before = surveys_before.transpose()?.unwrap_or_default();
        let surveys_after = surveys_after.transpose()?.unwrap_or_default();
        let mut found = Vec::new();
        while let Some(caller) = callers_of.next(budget).and_then(|index| callers.get(index)) {
            if has_same_rules && !caller.is_moved {
                continue;
            }
            let mut cells_before = match former {
                Some(at) if caller.was_there => caller.cells(at, &surveys_before),
                _ => BTreeMap::new(),
            };
            let cells_after = match latter {
                Some(at) if caller.is_there => caller.cells(at, &surveys_after),
                _ => BTreeMap::new(),
            };
            budget.cells = budget.cells.saturating_sub(cells_before.len() + cells_after.len());
            let mut differ = |before: Option<Prospect>, after: Option<Prospect>| {
                if are_alike(before.as_ref(), after.as_ref()) {
                    return;
                }
                let difference = Difference { before, after };
                budget.bytes = budget.bytes.saturating_sub(difference.encoded_len() + 8);
                found.push(difference);
            };
            for (cell, after) in cells_after {
                differ(cells_before.remove(&cell), Some(after));
            }
            cells_before.into_values().for_each(|before| differ(Some(before), None));
        }
        Ok(found)
    })
}

/// Somebody who may call before or after.
struct Calling {
    somebody: Somebody,
    was_there: bool,
    is_there: bool,
    /// The draft lets it come or go, whatever rules say.
    is_moved: bool,
}

/// Everybody who might call, before or after.
fn callers(before: Option<&Mesh<'_>>, after: &Mesh<'_>) -> Vec<Calling> {
    let everybody = |mesh: &Mesh<'_>| (mesh.everybody(), mesh.residents());
    let (mut all, residents_after) = everybody(after);
    let (former, residents_before) = before.map(everybody).unwrap_or_default();
    let labels = |all: &[Somebody]| all.iter().map(|one| one.label.clone()).collect::<BTreeSet<_>>();
    let (labels_before, labels_after) = (labels(&former), labels(&all));
    let known: HashSet<Somebody> = all.iter().cloned().collect();
    all.extend(former.into_iter().filter(|one| !known.contains(one)));
    let calling = |somebody: Somebody| {
        let (was_there, is_there) = match &somebody.asker.caller {
            _ if somebody.asker.is_representative => {
                (labels_before.contains(&somebody.label), labels_after.contains(&somebody.label))
            }
            Caller::Peer(id) if residents_before.contains(id) != residents_after.contains(id) => {
                (residents_before.contains(id), residents_after.contains(id))
            }
            // Of whom resources say nothing may be there at any time.
            Caller::Peer(_) | Caller::Anonymous => (true, true),
        };
        let is_let_in = |mesh: &Mesh<'_>, is_there: bool| match &somebody.asker.caller {
            Caller::Peer(id) => is_there && Known::Resources.vouches_for(mesh, id),
            Caller::Anonymous => false,
        };
        let was_let_in = before.is_some_and(|mesh| is_let_in(mesh, was_there));
        let is_moved = was_let_in != is_let_in(after, is_there);
        Calling { somebody, was_there, is_there, is_moved }
    };
    all.into_iter().map(calling).collect()
}

/// What one cell is of: the port, the action, the method and the route.
type Cell = (u16, Action, Option<String>, Arc<str>);

impl Calling {
    /// What it may do at one place.
    fn cells(
        &self,
        (mesh, called): (&Mesh<'_>, mesh::Place<'_>),
        surveys: &[(Place<'_>, Survey<'_>)],
    ) -> BTreeMap<Cell, Prospect> {
        let Somebody { label, asker } = &self.somebody;
        let turned_away = TurnedAway::of(mesh, &asker.caller, called, Known::Resources);
        let mut cells = BTreeMap::new();
        for (place, survey) in surveys {
            for prospect in survey.of(asker) {
                let cell = (place.port, prospect.action, prospect.method.clone(), prospect.resource.clone());
                let mut prospect = encode_prospect(prospect, label, asker.is_representative, place);
                turned_away.iter().for_each(|why| why.settle_prospect(&mut prospect));
                cells.insert(cell, prospect);
            }
        }
        cells
    }
}

/// A node or external service before and after.
#[derive(Default)]
struct Change<'b, 'a> {
    before: Option<mesh::Place<'b>>,
    after: Option<mesh::Place<'a>>,
}

/// All nodes and external services, so that a page needs to compare the rules of no others than its own.
fn places<'b, 'a>(before: Option<&Mesh<'b>>, after: &Mesh<'a>) -> Vec<Change<'b, 'a>> {
    fn name_of(place: mesh::Place<'_>) -> (bool, Name) {
        match place {
            mesh::Place::Node(name, _) => (false, name.clone()),
            mesh::Place::External(name) => (true, name.clone()),
        }
    }
    let mut all: BTreeMap<(bool, Name), Change<'b, 'a>> = BTreeMap::new();
    for place in before.map(Mesh::places).unwrap_or_default() {
        all.entry(name_of(place)).or_default().before = Some(place);
    }
    for place in after.places() {
        all.entry(name_of(place)).or_default().after = Some(place);
    }
    all.into_values().collect()
}

/// Whether the same is let through under the same conditions, whichever policies say so.
fn are_alike(before: Option<&Prospect>, after: Option<&Prospect>) -> bool {
    let outlook = |prospect: Option<&Prospect>| prospect.map_or(Outlook::Never, Prospect::outlook);
    if outlook(before) != outlook(after) {
        return false;
    }
    let conditions = |prospect: &Prospect| {
        let sorted = |clauses: &[Clause]| {
            // The same condition is another one where it asks for a label that is.
            let mut all: Vec<_> =
                clauses.iter().map(|clause| (clause.conditions.clone(), clause.held.clone())).collect();
            all.sort();
            all.dedup();
            all
        };
        (sorted(&prospect.permits), sorted(&prospect.forbids), prospect.denied_where.clone())
    };
    before.map(conditions).unwrap_or_default() == after.map(conditions).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hauberk_proto::mesh::v1::{ExternalPort, ExternalServiceSpec, Resource, resource::Spec};

    use super::super::not_compared::not_compared;
    use super::*;
    use crate::resources::Catalog;
    use crate::resources::testing::{
        catalog_of, enrolled, for_users, issuer, labelled, listener, node, node_spec, partner, policy,
        resource, role, routes, service, shop, trust_domain,
    };

    #[test]
    fn a_condition_on_a_label_that_changes_is_another_one() {
        let of = |team: &str, clerks: &[&str]| -> Catalog {
            let mut resources = shop();
            resources[1] = labelled(node("web", [listener(8000, "http")]), &[("team", team)]);
            resources.extend([
                role("clerks", clerks, &[], &[]),
                policy(
                    "teams",
                    "permit(principal == Node::\"web\", action == Action::\"POST\", resource in Node::\"orders\") when { \
                     context.headers.hasTag(\"x-team\") && principal.hasTag(\"team\") && \
                     context.headers.getTag(\"x-team\").contains(principal.getTag(\"team\")) };",
                ),
                policy(
                    "clerks",
                    "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Node::\"orders\") when { \
                     (principal in Role::\"clerks\") == context.headers.hasTag(\"x-clerk\") };",
                ),
            ]);
            resources.remove(4);
            catalog_of(&resources)
        };
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let held = |prospect: Option<Prospect>| prospect.unwrap().permits[0].held.join(", ");
        let compare = |before: &Catalog, after: &Catalog| {
            let [before, after] = [before, after].map(|catalog| Mesh::of(catalog, &domain, &shop).unwrap());
            let found = differences(Some(&before), &after, Position::default()).unwrap().found;
            let of_orders = found.into_iter().filter(|one| one.after.as_ref().unwrap().port == 8080);
            of_orders
                .map(|Difference { before, after }| {
                    let action = after.as_ref().unwrap().action.clone();
                    (action, held(before), held(after))
                })
                .collect::<Vec<_>>()
        };
        let told = |action: &str, before: &str, after: &str| {
            vec![(action.to_owned(), before.to_owned(), after.to_owned())]
        };
        let before = of("checkout", &["web"]);
        assert_eq!(compare(&before, &of("checkout", &["web"])), []);
        assert_eq!(
            compare(&before, &of("stock", &["web"])),
            told("POST", "team of the caller is \"checkout\"", "team of the caller is \"stock\"")
        );
        assert_eq!(
            compare(&before, &of("checkout", &[])),
            told("GET", "the caller is in role clerks", "nobody is in role clerks")
        );
    }

    /// What differs at the port 8080 of orders, each as `CALLER ACTION: BEFORE to AFTER`, and what is not compared.
    fn told(before: &[Resource], after: &[Resource]) -> (Vec<String>, Vec<String>) {
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let [before, after] = [catalog_of(before), catalog_of(after)];
        let [before, after] = [&before, &after].map(|catalog| Mesh::of(catalog, &domain, &shop).unwrap());
        let found = differences(Some(&before), &after, Position::default()).unwrap().found;
        let outlook = |prospect: Option<&Prospect>| {
            prospect.map_or("nothing".to_owned(), |prospect| prospect.outlook().as_str_name().to_lowercase())
        };
        let rows = found.iter().filter_map(|Difference { before, after }| {
            let either = after.as_ref().or(before.as_ref()).unwrap();
            let is_meant = either.node.ends_with("/orders") && either.port == 8080 && either.action == "GET";
            let [before, after] = [before, after].map(|side| outlook(side.as_ref()).replace("outlook_", ""));
            is_meant.then(|| format!("{}: {before} to {after}", either.caller))
        });
        (rows.collect(), not_compared(Some(&before), &after))
    }

    /// A shop that lets in every node, and every program.
    fn open_shop() -> Vec<Resource> {
        let mut resources = shop();
        resources[4] = policy(
            "anybody",
            "permit(principal is Node, action, resource); permit(principal is Workload, action, resource);",
        );
        resources
    }

    #[test]
    fn whoever_comes_is_compared_where_rules_stay() {
        let before = open_shop();
        let with = |resource: Resource| [before.clone(), vec![resource]].concat();
        let row = |row: &str| (vec![row.to_owned()], Vec::<String>::new());
        assert_eq!(told(&before, &before), (Vec::new(), Vec::new()));
        assert_eq!(told(&before, &with(partner())), row("spiffe://partner.example/: nothing to always"));
        let cart = "spiffe://shop.example/mesh/shop/node/cart: nothing to always";
        assert_eq!(told(&before, &with(node("cart", []))), row(cart));
        let batch = "spiffe://shop.example/workload/batch: nothing to always";
        assert_eq!(told(&before, &with(enrolled("batch", "web", "batch"))), row(batch));
        // One whom a policy named already was not let in before either.
        let named = "permit(principal == Workload::\"spiffe://partner.example/billing\", action, resource);";
        let (mut before, mut after) = (shop(), with(partner()));
        before[4] = policy("anybody", named);
        after[4] = policy("anybody", named);
        assert_eq!(told(&before, &after), row("spiffe://partner.example/billing: never to always"));
    }

    #[test]
    fn pages_hold_what_differs_and_go_on_where_the_former_ended() {
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let mut before = open_shop();
        before.extend((0..120).map(|number| node(&format!("n{number}"), [listener(80, "http")])));
        let pages = |after: &[Resource]| {
            let [before, after] = [catalog_of(&before), catalog_of(after)];
            let [before, after] = [&before, &after].map(|catalog| Mesh::of(catalog, &domain, &shop).unwrap());
            let (mut pages, mut called, mut from) = (0, Vec::new(), Some(Position::default()));
            while let Some(position) = from {
                let page = differences(Some(&before), &after, position).unwrap();
                let either = page.found.into_iter().filter_map(|one| one.after.or(one.before));
                called.extend(either.filter(|one| one.action == "GET").map(|one| one.node));
                (pages, from) = (pages + 1, page.next);
            }
            let count = called.len();
            called.dedup();
            (pages, [count, called.len()], [&before, &after].map(Mesh::compiled))
        };
        assert_eq!(pages(&before), (1, [0, 0], [0, 0]));
        // What lies between those that differ is on no page.
        let forbid = "forbid(principal == Node::\"web\", action, resource in Node::\"n99\"); \
                      forbid(principal == Node::\"web\", action, resource in Node::\"n0\");";
        assert_eq!(pages(&[before.clone(), vec![policy("some", forbid)]].concat()), (1, [2, 2], [2, 2]));
        // One who comes may call all that listen, by rules that are the same for all but itself.
        let comes = pages(&[before.clone(), vec![node("cart", [])]].concat());
        assert_eq!(comes, (3, [123, 122], [122, 1]));
    }

    #[test]
    fn who_is_turned_away_before_and_after_is_no_difference() {
        let mut after = open_shop();
        after.push(policy("strangers", "permit(principal is Anonymous, action, resource);"));
        assert_eq!(told(&open_shop(), &after), (Vec::new(), Vec::new()));
    }

    #[test]
    fn that_a_user_is_required_is_a_difference() {
        let of = |mode: &str, route: Option<&str>| {
            let mut resources = open_shop();
            let mut listener = for_users(listener(8080, "http"), mode, &[]);
            if let Some(users) = route {
                listener = routes(listener, &["/a"]);
                listener.routes[0].users = Some(users.to_owned());
            }
            resources[2] = node("orders", [listener, self::listener(9090, "http")]);
            resources.push(login());
            resources
        };
        let (rows, not_compared) = told(&of("OPTIONAL", None), &of("REQUIRED", None));
        assert!(rows.iter().any(|row| row.ends_with("/web: always to conditional")), "{rows:?}");
        assert_eq!(not_compared, Vec::<String>::new());
        let (rows, _) = told(&of("OPTIONAL", Some("OPTIONAL")), &of("OPTIONAL", Some("REQUIRED")));
        assert!(rows.iter().any(|row| row.ends_with("/web: always to conditional")), "{rows:?}");
    }

    #[test]
    fn what_goes_is_a_difference_or_named() {
        let mut before = open_shop();
        node_spec(&mut before[1]).backends.clear();
        before.extend([enrolled("first", "web", "batch"), enrolled("second", "orders", "batch")]);
        let without = |names: &[&str]| {
            let left = before.iter().filter(|one| !names.contains(&one.name.as_str()));
            told(&before, &left.cloned().collect::<Vec<_>>())
        };
        let named = |named: &str| (Vec::new(), vec![named.to_owned()]);
        let one_less = "enrollment second: which programs are given the identity";
        assert_eq!(without(&["second"]), named(one_less));
        let (rows, others) = without(&["first", "second"]);
        assert_eq!(rows, ["spiffe://shop.example/workload/batch: always to nothing"]);
        assert_eq!(others, Vec::<String>::new());
        let (rows, others) = without(&["anybody"]);
        assert!(rows.contains(&"spiffe://shop.example/mesh/shop/node/web: always to never".to_owned()));
        assert_eq!(others, Vec::<String>::new());
        let mut users = open_shop();
        users[2] =
            node("orders", [for_users(listener(8080, "http"), "OPTIONAL", &[]), listener(9090, "http")]);
        let with_login = [&users[..], &[login()]].concat();
        assert_eq!(
            told(&with_login, &users).1,
            ["JWT issuer login: which tokens are good, and whose they are"]
        );
        let nobody_takes = [&open_shop()[..], &[login()]].concat();
        assert_eq!(told(&nobody_takes, &open_shop()), (Vec::new(), Vec::new()));
        let catalogs = [catalog_of(&open_shop()), Catalog::default()];
        let (domain, shop, nothing) = (trust_domain(), Name::parse("shop").unwrap(), Default::default());
        let before = Mesh::of(&catalogs[0], &domain, &shop).unwrap();
        let after = Mesh::gone(&catalogs[1], &domain, &shop, &nothing);
        let found = differences(Some(&before), &after, Position::default()).unwrap().found;
        assert!(!found.is_empty() && found.iter().all(|one| one.after.is_none()), "{found:?}");
        let service = "virtual service orders: which node it is that callers reach";
        assert_eq!(not_compared(Some(&before), &after), [service]);
    }

    type Draft = Box<dyn Fn(&mut Vec<Resource>)>;

    #[test]
    fn what_cells_do_not_show_is_named() {
        let of = |change: &dyn Fn(&mut Vec<Resource>)| {
            let mut resources = open_shop();
            let listener = for_users(listener(8080, "http"), "OPTIONAL", &[]);
            resources[2] = node("orders", [listener, self::listener(9090, "http")]);
            resources.extend([login(), partner()]);
            let ports = vec![ExternalPort { port: Some(443), protocol: "tcp".to_owned() }];
            let hosts = vec!["api.example".to_owned()];
            let external = ExternalServiceSpec { hosts, ports, ..ExternalServiceSpec::default() };
            resources.push(resource("shop", "stripe", Spec::ExternalService(external)));
            resources.push(enrolled("batch", "web", "batch"));
            change(&mut resources);
            resources
        };
        let drafts: Vec<(Draft, &str)> = vec![
            (
                Box::new(|all| match &mut all[5].spec {
                    Some(Spec::JwtIssuer(spec)) => spec.audiences = vec!["others".to_owned()],
                    _ => panic!(),
                }),
                "JWT issuer login: which tokens are good, and whose they are",
            ),
            (
                Box::new(|all| all.push(issuer("other", |_| {}))),
                "JWT issuer other: which tokens are good, and whose they are",
            ),
            (
                Box::new(|all| match &mut all[6].spec {
                    Some(Spec::FederatedTrustDomain(spec)) => spec.bundle_endpoint_url.push_str("other"),
                    _ => panic!(),
                }),
                "federated trust domain partner.example: what its members are verified by",
            ),
            (
                Box::new(|all| match &mut all[7].spec {
                    Some(Spec::ExternalService(spec)) => spec.hosts.push("other.example".to_owned()),
                    _ => panic!(),
                }),
                "external service stripe: which hosts and addresses are meant",
            ),
            (
                Box::new(|all| all.push(enrolled("second", "orders", "batch"))),
                "enrollment second: which programs are given the identity",
            ),
            (
                Box::new(|all| node_spec(&mut all[2]).listeners[0].users = None),
                "virtual node orders: whose tokens are looked at, and whether the app gets them at port 8080",
            ),
            (
                Box::new(|all| {
                    node_spec(&mut all[2]).listeners[1].path_with_escaped_slashes_action =
                        Some("KEEP_UNCHANGED".to_owned())
                }),
                "virtual node orders: what becomes of escaped slashes at port 9090",
            ),
            (
                Box::new(|all| all[3] = service("orders", "web", None)),
                "virtual service orders: which node it is that callers reach",
            ),
        ];
        let before = of(&|_| {});
        assert_eq!(told(&before, &before), (Vec::new(), Vec::new()));
        for (change, named) in drafts {
            assert_eq!(told(&before, &of(&*change)).1, [named]);
        }
    }

    /// The same at each call, with its keys.
    fn login() -> Resource {
        static LOGIN: std::sync::LazyLock<Resource> = std::sync::LazyLock::new(|| issuer("login", |_| {}));
        LOGIN.clone()
    }
}
