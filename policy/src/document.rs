//! A policy as its author wrote it: parsed, validated, and its names made full.

mod breadth;
mod problem;
mod reach;
mod template;
mod validation;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use cedar_policy::{Policy, PolicyId, PolicySet, PrincipalConstraint, ValidationMode};
use hauberk_identity::{Name, TrustDomain};
use miette::Diagnostic;

use crate::compiled::permits;
use crate::decision::Effect;
use crate::labels::LabelsRead;
use crate::named::NamedReads;
use crate::names::{Namespace, Referent};
use crate::qualify::{Flaw, Mention, Qualified, qualify};
use crate::reads::FactSet;
use crate::statements::{Extent, extents, line_and_column};
use crate::vocabulary::{Kind, VOCABULARY, World};
pub use problem::PolicyProblem;
pub(crate) use template::read_template;
use validation::{applies, may_be_calls, worth_telling};

/// What the names of a boundary's statements begin with, so that no policy has them: names hold no colon.
pub const BOUNDARY: &str = "boundary:";

/// The longest policy text, in bytes.
pub const MAX_TEXT_LEN: usize = 64 * 1024;

/// The most characters of operators in one statement, and the deepest nesting. What walks a statement recurses, and
/// must not run out of stack; a test holds these to the stack of a worker thread.
const MAX_OPERATORS: usize = 400;
const MAX_DEPTH: usize = 32;

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
}

/// One `permit` or `forbid`.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The document's label where it holds one statement, otherwise `<label>/<@id or ordinal>`.
    pub(crate) name: String,
    /// With full names.
    pub(crate) policy: Policy,
    pub(crate) text: String,
    pub(crate) roles: Vec<Name>,
    /// Where it reads any.
    pub(crate) labels: Option<LabelsRead>,
    pub(crate) named: NamedReads,
    pub(crate) reads: FactSet,
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
        let mut reader = Reader { text, extents: extents(text), problems: Vec::new() };
        reader.check_size();
        let set = reader.finish_stage(|reader| reader.parse())?;
        reader.finish_stage(|reader| reader.validate(&set))?;
        let names = Namespace::of(trust_domain, &mesh);
        let (statements, references) =
            reader.finish_stage(|reader| reader.statements(&set, &names, &label(&name, mode), mode))?;
        Ok(Self { mesh, name, mode, text: text.to_owned(), statements, references })
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

    /// Whether a permit of it is for workloads of whatever trust domain, its conditions aside.
    pub fn permits_all_workloads(&self) -> bool {
        let reaches_all = |policy: &Policy| matches!(policy.principal_constraint(), PrincipalConstraint::Is(kind) if Kind::parse(&kind.to_string()) == Some(Kind::Workload));
        self.statements.iter().any(|statement| permits(&statement.policy) && reaches_all(&statement.policy))
    }

    /// How many bytes each of its statements has with full names, as agents get them.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.statements.iter().map(|statement| statement.name.len() + statement.text.len())
    }

    /// What of the context its conditions read.
    pub fn reads(&self) -> FactSet {
        self.statements.iter().fold(FactSet::NONE, |reads, statement| reads.and(statement.reads))
    }

    pub(crate) fn statements(&self) -> &[Statement] {
        &self.statements
    }
}

struct Reader<'a> {
    text: &'a str,
    extents: Vec<Extent>,
    problems: Vec<PolicyProblem>,
}

impl Reader<'_> {
    /// Runs one stage, and stops after it if anything was found wrong until then.
    fn finish_stage<T>(&mut self, stage: impl FnOnce(&mut Self) -> T) -> Result<T, Vec<PolicyProblem>> {
        if self.problems.is_empty() {
            let result = stage(self);
            if self.problems.is_empty() {
                return Ok(result);
            }
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        Err(std::mem::take(&mut self.problems))
    }

    fn check_size(&mut self) {
        if self.text.len() > MAX_TEXT_LEN {
            let message =
                format!("a policy has at most {MAX_TEXT_LEN} bytes, this one has {}", self.text.len());
            self.report(0, 1, message, Some("split it into several policies".to_owned()));
        }
        for extent in self.extents.clone() {
            let message = if extent.operators > MAX_OPERATORS {
                format!("a statement has at most {} operators", MAX_OPERATORS / 2)
            } else if extent.depth > MAX_DEPTH {
                format!("a statement nests at most {MAX_DEPTH} deep")
            } else {
                continue;
            };
            let help =
                "split it into several statements, or use a set: [\"/a\", \"/b\"].contains(context.path)";
            self.report_at(extent, &message, Some(help.to_owned()));
        }
    }

    fn parse(&mut self) -> PolicySet {
        let set = self.parse_any();
        for template in set.templates() {
            let extent = self.extent_of(template.id());
            let help = "name the principal and the resource instead of ?principal and ?resource, or make it a PolicyTemplate";
            self.report_at(extent, "this is a template, not a policy", Some(help.to_owned()));
        }
        if set.is_empty() && self.problems.is_empty() {
            self.report(0, 1, "a policy holds at least one permit or forbid".to_owned(), None);
        }
        set
    }

    /// Statements with slots and without.
    fn parse_any(&mut self) -> PolicySet {
        PolicySet::from_str(self.text).unwrap_or_else(|errors| {
            errors.iter().for_each(|error| self.report_cedar(error));
            PolicySet::new()
        })
    }

    fn validate(&mut self, set: &PolicySet) {
        // The original text: validation reads types and attributes, never the ids that are still short.
        let validate = |world: &World| world.validator.validate(set, ValidationMode::Strict);
        let written = validate(&VOCABULARY.writing);
        let (errors, warnings) = worth_telling(&written);
        errors.into_iter().for_each(|error| self.report_cedar(error));
        // A method may come to be a read once the policy is there.
        let read = may_be_calls(set).then(|| validate(&VOCABULARY.reading));
        if let Some(read) = &read {
            let (errors, _) = worth_telling(read);
            errors.into_iter().for_each(|error| self.report_cedar(error));
        }
        let warnings =
            warnings.into_iter().filter(|warning| !read.as_ref().is_some_and(|read| applies(read, warning)));
        warnings.for_each(|warning| self.report_cedar(warning));
        // What is wrong for several actions is said of each: one of them will do.
        let told_first = |problem: &PolicyProblem| {
            let PolicyProblem { line, column, length, message, help } = problem;
            (*line, *column, *length, help.is_none(), message.clone())
        };
        self.problems.sort_by_cached_key(told_first);
        self.problems.dedup_by_key(|problem| (problem.line, problem.column, problem.length));
    }

    fn statements(
        &mut self,
        set: &PolicySet,
        names: &Namespace,
        document: &str,
        mode: Mode,
    ) -> (Vec<Statement>, Vec<Reference>) {
        let mut policies: Vec<&Policy> = set.policies().collect();
        policies.sort_by_key(|policy| ordinal(policy.id()));
        let mut statements = Vec::with_capacity(policies.len());
        let mut references = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (index, policy) in policies.iter().enumerate() {
            let extent = self.extent_of(policy.id());
            self.check_reach(policy, mode, extent);
            let id = match policy.annotation("id") {
                None => (index + 1).to_string(),
                Some(id) => {
                    if let Err(error) = Name::parse(id) {
                        let place = self.place_of(extent, "@id");
                        self.report(place.0, place.1, format!("@id: {error}"), None);
                    }
                    id.to_owned()
                }
            };
            if let Some(first) = places.insert(id.clone(), extent.start) {
                let (line, _) = line_and_column(self.text, first);
                let place = self.place_of(extent, "@id");
                self.report(place.0, place.1, format!("the id {id:?} is already that of line {line}"), None);
            }
            let name = if policies.len() == 1 { document.to_owned() } else { format!("{document}/{id}") };
            match qualify(policy, names) {
                Ok(qualified) => {
                    let effect = if permits(policy) { Effect::Allow } else { Effect::Deny };
                    let Qualified { policy: full, reads, text, mentions } = qualified;
                    let roles = mentions.into_iter().filter_map(|mention| {
                        let (line, column) =
                            line_and_column(self.text, self.place_of(extent, &mention.text).0);
                        let Mention { referent, text } = mention;
                        let role = match &referent {
                            Referent::Role(role) => Some(role.clone()),
                            _ => None,
                        };
                        references.push(Reference { referent, text, effect, line, column });
                        role
                    });
                    let roles = roles.collect();
                    let labels = (!reads.labels.is_empty()).then(|| LabelsRead::of(&full, &reads));
                    let (named, reads) = (NamedReads::of(&reads), reads.facts);
                    statements.push(Statement { name, policy: full, text, roles, labels, named, reads });
                }
                Err(flaws) => self.report_flaws(extent, flaws),
            }
        }
        (statements, references)
    }

    fn report_flaws(&mut self, extent: Extent, flaws: Vec<Flaw>) {
        for Flaw { text, message, help } in flaws {
            let (start, length) = self.place_of(extent, &text);
            let message = if text.is_empty() { message } else { format!("{text}: {message}") };
            self.report(start, length, message, (!help.is_empty()).then_some(help));
        }
    }

    fn extent_of(&self, id: &PolicyId) -> Extent {
        let everything = Extent { end: self.text.len(), ..Extent::default() };
        self.extents.get(ordinal(id)).copied().unwrap_or(everything)
    }

    /// The place of `needle` within a statement, else of the statement's first line.
    fn place_of(&self, extent: Extent, needle: &str) -> (usize, usize) {
        let text = self.text.get(extent.start..extent.end).unwrap_or_default();
        match text.find(needle) {
            Some(at) if !needle.is_empty() => (extent.start + at, needle.len()),
            _ => (extent.start, text.lines().next().unwrap_or_default().len()),
        }
    }

    fn report_cedar(&mut self, error: &(impl Diagnostic + fmt::Display)) {
        let label = error.labels().and_then(|mut labels| labels.next());
        let (start, length) = label.as_ref().map_or((0, 1), |label| (label.offset(), label.len()));
        // Cedar begins its messages with its own number of the statement, which says less than the place does.
        let message = error.to_string();
        let message = match message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, ")) {
            Some((_, message)) => message.to_owned(),
            None => message,
        };
        let label = label.and_then(|label| label.label().map(ToOwned::to_owned));
        let help = error.help().map(|help| help.to_string());
        let help = match (help, label) {
            (Some(help), _) => Some(help),
            (None, label) => label.filter(|label| !message.contains(label.as_str())),
        };
        self.report(start, length, message, help);
    }

    fn report_at(&mut self, extent: Extent, message: &str, help: Option<String>) {
        let (start, length) = self.place_of(extent, "");
        self.report(start, length, message.to_owned(), help);
    }

    fn report(&mut self, start: usize, length: usize, message: String, help: Option<String>) {
        let (line, column) = line_and_column(self.text, start);
        let concerned = start..start.saturating_add(length);
        let length = self.text.char_indices().filter(|(index, _)| concerned.contains(index)).count().max(1);
        self.problems.push(PolicyProblem { line, column, length, message, help });
    }
}

fn label(name: &Name, mode: Mode) -> String {
    match mode {
        Mode::Enforce | Mode::Audit => name.to_string(),
        Mode::Boundary => format!("{BOUNDARY}{name}"),
    }
}

/// Cedar numbers the statements of a text `policy0`, `policy1` and so on.
fn ordinal(id: &PolicyId) -> usize {
    let id: &str = id.as_ref();
    id.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
