//! A policy as its author wrote it: parsed, validated, and its names made full.

mod breadth;
mod header_values;
mod origin;
mod problem;
mod reach;
mod reader;
mod routes_forbidden;
mod template;
mod validation;

use cedar_policy::{Policy, PrincipalConstraint};
use hauberk_identity::{Name, TrustDomain};

use crate::compiled::permits;
use crate::decision::Effect;
use crate::labels::LabelsRead;
use crate::named::NamedReads;
use crate::names::{Namespace, Referent};
use crate::reads::FactSet;
use crate::vocabulary::Kind;
pub use problem::PolicyProblem;
use reader::Reader;
pub use reader::only_permits;
pub(crate) use reader::{Grade, Text};
pub(crate) use template::read_template;

/// What the names of a boundary's statements begin with, so that no policy has them: names hold no colon.
pub const BOUNDARY: &str = "boundary:";

/// The longest policy text, in bytes.
pub const MAX_TEXT_LEN: usize = 64 * 1024;

/// Whether a policy decides or is only recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// It is evaluated and recorded, and decides nothing.
    Audit,
    /// It is of the mesh's boundary: it only forbids, before all others, and nothing lifts it.
    Boundary,
}

/// A policy of one mesh: one or more Cedar statements that are valid by the schema.
///
/// In its text, names are the mesh's own: `Node::"web"`, `Node::"gateway/edge"`, `Service::"orders"`, `Role::"clerks"`,
/// `Port::"orders:8080"`, `Route::"orders:8080 /orders/{id}"`, `Workload::"batch/nightly"`. A node of another mesh and
/// any identity of another trust domain are written as full SPIFFE ids.
#[derive(Debug, Clone)]
pub struct PolicyDocument {
    mesh: Name,
    name: Name,
    mode: Mode,
    text: String,
    statements: Vec<Statement>,
    references: Vec<Reference>,
    outdated: Vec<PolicyProblem>,
}

/// One `permit` or `forbid`.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The document's label where it holds one statement, otherwise `<label>/<@id or ordinal>`: an `@id` that is
    /// no name is a note.
    pub(crate) name: String,
    /// With full names.
    pub(crate) policy: Policy,
    pub(crate) text: String,
    /// What its resource is, or is in, by its scope; nothing where that names none.
    pub(crate) resource: Option<Referent>,
    /// Of a forbid, the routes and data classes that its conditions are about.
    pub(crate) routes_forbidden: Vec<Referent>,
    pub(crate) roles: Vec<Name>,
    /// Where it reads any.
    pub(crate) labels: Option<LabelsRead>,
    pub(crate) named: NamedReads,
    pub(crate) reads: FactSet,
    /// How many characters follow the wildcards of its patterns, where Cedar is asked about it.
    pub(crate) following: usize,
}

/// A name that a policy mentions, for checks that what it stands for exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What is meant.
    pub referent: Referent,
    /// As it is written, such as `Node::"web"`.
    pub text: String,
    /// Whether the statement that mentions it permits or forbids.
    pub effect: Effect,
    /// One-based line.
    pub line: usize,
    /// One-based column, in characters.
    pub column: usize,
}

impl PolicyDocument {
    /// Parses and validates a policy's text.
    ///
    /// Beyond what Cedar's strict validation refuses, this refuses: templates; whatever Cedar only warns of, such as a
    /// policy that can never apply; names that stand for nothing possible; resources of other meshes; paths that no
    /// request has; duplicate `@id`s; and a `permit` that reaches workloads or anonymous callers without naming their
    /// type.
    ///
    /// # Errors
    /// All mistakes that were found, in the order of the text.
    pub fn parse(
        mesh: Name,
        trust_domain: &TrustDomain,
        name: Name,
        mode: Mode,
        text: &str,
    ) -> Result<Self, Vec<PolicyProblem>> {
        Self::read(mesh, trust_domain, name, mode, Reader::new(text, Text::New))
    }

    /// Reads the text of a policy that was admitted before, perhaps by an earlier release. What new texts alone are
    /// refused for is no mistake here, and is told by [`outdated`](Self::outdated): the policy says what it has said.
    /// That is how long a text and what follows its wildcards may be, what Cedar only warns of,
    /// and comparisons and questions that come to nothing.
    ///
    /// # Errors
    /// All mistakes for which it cannot be enforced, in the order of the text.
    pub fn parse_stored(
        mesh: Name,
        trust_domain: &TrustDomain,
        name: Name,
        mode: Mode,
        text: &str,
    ) -> Result<Self, Vec<PolicyProblem>> {
        Self::read(mesh, trust_domain, name, mode, Reader::new(text, Text::Stored))
    }

    fn read(
        mesh: Name,
        trust_domain: &TrustDomain,
        name: Name,
        mode: Mode,
        mut reader: Reader<'_>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        reader.check_size();
        let set = reader.finish_stage(|reader| reader.parse())?;
        reader.finish_stage(|reader| reader.validate(&set))?;
        let names = Namespace::of(trust_domain, &mesh);
        let (statements, references) =
            reader.finish_stage(|reader| reader.statements(&set, &names, &label(&name, mode), mode))?;
        let text = reader.text().to_owned();
        Ok(Self { mesh, name, mode, text, statements, references, outdated: reader.outdated() })
    }

    /// What a text mentions that may be wrong in other ways, as far as it can be told: so that names that stand for
    /// nothing are refused together with whatever else is wrong.
    pub fn mentioned(mesh: &Name, trust_domain: &TrustDomain, text: &str) -> Vec<Reference> {
        Reader::new(text, Text::New).references(&Namespace::of(trust_domain, mesh))
    }

    /// What a new text would be refused for, in the order of the text: nothing, unless it was stored before.
    pub fn outdated(&self) -> &[PolicyProblem] {
        &self.outdated
    }

    /// The mesh that the policy governs.
    pub fn mesh(&self) -> &Name {
        &self.mesh
    }

    /// The policy's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whether it decides.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What the names of its statements begin with: its own name, of a boundary after [`BOUNDARY`].
    pub fn label(&self) -> String {
        label(&self.name, self.mode)
    }

    /// The text as its author wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every name that the policy mentions, in the order of its statements. Whoever admits the policy checks that what
    /// they stand for exists; roles above all, since a node refuses policies with a role that it was not told of.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The roles that it mentions; one may come several times.
    pub fn roles(&self) -> impl Iterator<Item = &Name> {
        self.statements.iter().flat_map(|statement| &statement.roles)
    }

    /// The roles that one statement mentions, by the statement's name in a slice.
    pub fn roles_of(&self, statement: &str) -> &[Name] {
        let found = self.statements.iter().find(|own| own.name == statement);
        found.map_or(&[], |statement| &statement.roles)
    }

    /// Whether any statement of it forbids.
    pub fn forbids(&self) -> bool {
        self.statements.iter().any(|statement| !permits(&statement.policy))
    }

    /// What the resources of its permits, or of its forbids, are or are in by their scopes; nothing for one that names
    /// none.
    pub fn resources(&self, effect: Effect) -> impl Iterator<Item = Option<&Referent>> {
        let is_meant = move |statement: &&Statement| permits(&statement.policy) == (effect == Effect::Allow);
        self.statements.iter().filter(is_meant).map(|statement| statement.resource.as_ref())
    }

    /// Whether a permit of it is for workloads of whatever trust domain: neither its scope nor a condition says of
    /// which.
    pub fn permits_all_workloads(&self) -> bool {
        self.permits_for_workloads().any(|policy| !origin::demands_trust_domain(policy))
    }

    /// Whether the scope of a permit of it is all workloads, of which its conditions may leave some.
    pub fn permits_some_workloads(&self) -> bool {
        self.permits_for_workloads().next().is_some()
    }

    fn permits_for_workloads(&self) -> impl Iterator<Item = &Policy> {
        let is_for_all = |policy: &&Policy| matches!(policy.principal_constraint(), PrincipalConstraint::Is(kind) if Kind::parse(&kind.to_string()) == Some(Kind::Workload));
        let statements = self.statements.iter().map(|statement| &statement.policy);
        statements.filter(|policy| permits(policy)).filter(is_for_all)
    }

    /// How many bytes each of its statements has with full names, as agents get them.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.statements.iter().map(|statement| statement.name.len() + statement.text.len())
    }

    /// What of the context its conditions read.
    pub fn reads(&self) -> FactSet {
        self.statements.iter().fold(FactSet::NONE, |reads, statement| reads.and(statement.reads))
    }

    /// The statements about which Cedar is asked and whose patterns have wildcards, each by its name in a slice, with
    /// how many characters follow these, of each pattern the longest run counted.
    pub fn following(&self) -> impl Iterator<Item = (&str, usize)> {
        let of_all = self.statements.iter().map(|statement| (statement.name.as_str(), statement.following));
        of_all.filter(|(_, following)| *following > 0)
    }

    pub(crate) fn statements(&self) -> &[Statement] {
        &self.statements
    }
}

fn label(name: &Name, mode: Mode) -> String {
    match mode {
        Mode::Enforce | Mode::Audit => name.to_string(),
        Mode::Boundary => format!("{BOUNDARY}{name}"),
    }
}

#[cfg(test)]
mod tests;
