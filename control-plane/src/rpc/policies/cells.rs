//! All that callers may do, a page at a time: how much one call looks at is bounded, whatever the size of the mesh.

use hauberk_policy::{Asked, Engine, Given, Outlook, PathPattern, Paths, Protocol};
use hauberk_proto::admin::v1::Prospect;
use prost::Message;
use tonic::{Code, Status};

use super::mesh::{self, Mesh, Somebody};
use super::prospect::{Place, encode_prospect};
use super::turned_away::{Known, TurnedAway};
use crate::registry::Revision;
use crate::rpc::status;

/// How many cells, which are callers times actions times routes, one call looks at.
const CELLS: usize = 20_000;

/// How many nodes' policies one call compiles.
const NODES: usize = 50;

/// What an answer may weigh, in bytes: clients take 4 MiB.
const ANSWER_BYTES: usize = 3 * 1024 * 1024;

/// Where a page begins: at a node, and a caller of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    node: usize,
    caller: usize,
}

/// What one call may still look at.
pub(super) struct Budget {
    pub(super) cells: usize,
    nodes: usize,
    pub(super) bytes: usize,
}

/// What is asked of each node.
pub(super) struct Wanted<'a> {
    /// None: all ports.
    pub(super) ports: Option<Vec<u16>>,
    /// What the ports speak.
    pub(super) spoken: Spoken,
    pub(super) method: Option<&'a str>,
    pub(super) path: Option<&'a PathPattern>,
    pub(super) include_never: bool,
}

/// What is spoken at the ports that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Anything,
    /// HTTP or gRPC.
    Requests,
    Http,
    Grpc,
}

impl Spoken {
    /// Which ports are meant by who asks for this.
    pub(super) fn of(method: &str, path: &str) -> Self {
        match (method, path) {
            ("", "") => Self::Anything,
            ("call", _) => Self::Grpc,
            ("", path) if path.starts_with(['/', '*']) => Self::Requests,
            ("", _) => Self::Grpc,
            (_, _) => Self::Http,
        }
    }

    pub(super) fn has(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self == Self::Anything,
            Protocol::Grpc => self != Self::Http,
            Protocol::Http | Protocol::Http2 => self != Self::Grpc,
        }
    }
}

/// A page of what was found, and where the next one begins.
pub(super) struct Found<T> {
    pub(super) found: Vec<T>,
    /// How many cells were looked at.
    pub(super) compared: u64,
    pub(super) next: Option<Position>,
}

/// The node's id, or the external service.
pub(super) fn named<'p>(mesh: &Mesh<'_>, place: mesh::Place<'p>) -> (String, &'p str) {
    match place {
        mesh::Place::Node(name, _) => (mesh.id_of(name).to_string(), ""),
        mesh::Place::External(name) => (String::new(), name.as_str()),
    }
}

/// What callers may do at nodes, and at external services.
pub(super) fn survey(
    mesh: &Mesh<'_>,
    places: &[mesh::Place<'_>],
    callers: &[Somebody],
    known: Known<'_>,
    wanted: &Wanted<'_>,
    from: Position,
) -> Result<Found<Prospect>, Status> {
    page(places.len(), callers.len(), from, |place, callers_of, budget| {
        let Some(called) = places.get(place).copied() else { return Ok(Vec::new()) };
        let engine = mesh.engine(called)?;
        let (id, external) = named(mesh, called);
        let at = At { engine: &engine, node: &id, external };
        let surveys = at.surveys(wanted)?;
        let mut found = Vec::new();
        while let Some(caller) = callers_of.next(budget).and_then(|index| callers.get(index)) {
            let turned_away = TurnedAway::of(mesh, &caller.asker.caller, called, known);
            for (place, survey) in &surveys {
                budget.cells = budget.cells.saturating_sub(survey.len());
                for prospect in survey.of(&caller.asker) {
                    let is_never = prospect.outlook == Outlook::Never || turned_away.is_some();
                    if is_never && !wanted.include_never {
                        continue;
                    }
                    let is_others = caller.asker.is_representative;
                    let mut prospect = encode_prospect(prospect, &caller.label, is_others, place);
                    turned_away.iter().for_each(|why| why.settle_prospect(&mut prospect));
                    budget.bytes = budget.bytes.saturating_sub(prospect.encoded_len() + 8);
                    found.push(prospect);
                }
            }
        }
        Ok(found)
    })
}

/// A node that is asked about.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) engine: &'a Engine,
    pub(super) node: &'a str,
    pub(super) external: &'a str,
}

impl<'a> At<'a> {
    /// Each of the ports that are meant.
    pub(super) fn surveys<'b>(
        self,
        wanted: &'b Wanted<'b>,
    ) -> Result<Vec<(Place<'a>, hauberk_policy::Survey<'b>)>, Status>
    where
        'a: 'b,
    {
        static NOTHING: std::sync::LazyLock<Given> = std::sync::LazyLock::new(Given::default);
        let ports = self.engine.scope().ports.iter();
        let ports =
            ports.filter(|port| wanted.ports.as_ref().is_none_or(|ports| ports.contains(&port.number)));
        let ports = ports.filter(|port| wanted.spoken.has(port.protocol));
        let mut surveys = Vec::new();
        for port in ports {
            let method = wanted.method.filter(|_| port.protocol != Protocol::Grpc);
            let paths = wanted.path.map_or(Paths::All, Paths::Matching);
            let survey = self.engine.survey(port.number, Asked { method, paths }, &NOTHING);
            let survey = survey.map_err(|reason| status::bad_field("port", reason.as_str()))?;
            let (node, external, services) = (self.node, self.external, &port.services[..]);
            surveys.push((Place { node, external, port: port.number, services }, survey));
        }
        Ok(surveys)
    }
}

impl Budget {
    /// Nothing of the node at hand was compiled.
    pub(super) fn spare_node(&mut self) {
        self.nodes += 1;
    }
}

/// The callers of one node that still fit onto the page.
pub(super) struct CallersOf {
    next: usize,
    count: usize,
}

impl CallersOf {
    pub(super) fn next(&mut self, budget: &Budget) -> Option<usize> {
        let is_over = self.next >= self.count || budget.cells == 0 || budget.bytes == 0;
        (!is_over).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Passes over those that are left.
    pub(super) fn skip(&mut self) {
        self.next = self.count;
    }
}

/// Goes on from a position until the budget is used up; at least one caller is looked at.
pub(super) fn page<T>(
    nodes: usize,
    callers: usize,
    from: Position,
    mut of_node: impl FnMut(usize, &mut CallersOf, &mut Budget) -> Result<Vec<T>, Status>,
) -> Result<Found<T>, Status> {
    let mut budget = Budget { cells: CELLS, nodes: NODES, bytes: ANSWER_BYTES };
    let mut page = Found { found: Vec::new(), compared: 0, next: None };
    let mut position = from;
    while position.node < nodes {
        if budget.nodes == 0 || budget.cells == 0 || budget.bytes == 0 {
            page.next = Some(position);
            break;
        }
        budget.nodes -= 1;
        let mut callers_of = CallersOf { next: position.caller, count: callers };
        let before = budget.cells;
        page.found.extend(of_node(position.node, &mut callers_of, &mut budget)?);
        page.compared += u64::try_from(before - budget.cells).unwrap_or(u64::MAX);
        position = if callers_of.next < callers {
            Position { caller: callers_of.next, ..position }
        } else {
            Position { node: position.node + 1, caller: 0 }
        };
    }
    Ok(page)
}

impl Position {
    /// Whether this is where everything begins.
    pub(super) fn is_first(self) -> bool {
        self == Self::default()
    }

    /// Reads what [`token`](Self::token) wrote.
    pub(super) fn read(token: &str, revision: Revision) -> Result<Self, Status> {
        if token.is_empty() {
            return Ok(Self::default());
        }
        let mut numbers = token.split('.').map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        let parts = (number(), number(), number());
        let (Some(of), Some(node), Some(caller)) = parts else {
            return Err(status::bad_field("pageToken", "this is no token of ours"));
        };
        if of != revision.0 {
            let message = "the configuration changed between two pages: ask for the first one again";
            return Err(status::refusal(Code::Aborted, "CONFIGURATION_CHANGED", message));
        }
        let index = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Self { node: index(node), caller: index(caller) })
    }

    /// The position as a token that holds for one revision.
    pub(super) fn token(self, revision: Revision) -> String {
        format!("{}.{}.{}", revision.0, self.node, self.caller)
    }
}
