//! Reads the text of a policy, or of a template, stage by stage.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use cedar_policy::{Effect as CedarEffect, Policy, PolicyId, PolicySet, ValidationMode};
use hauberk_identity::Name;
use miette::Diagnostic;

use super::routes_forbidden::{by_conditions, is_of_routes};
use super::validation::{advice, applies, may_be_calls, worth_telling};
use super::{MAX_TEXT_LEN, Mode, PolicyProblem, Reference, Statement};
use crate::compiled::permits;
use crate::decision::Effect;
use crate::labels::LabelsRead;
use crate::named::NamedReads;
use crate::names::{Namespace, Referent};
use crate::qualify::{Flaw, Mention, Qualified, find_mentions, qualify};
use crate::slice::named;
use crate::statements::{Extent, extents, line_and_column};
use crate::vocabulary::{Kind, VOCABULARY, World};

/// The most characters of operators in one statement, and the deepest nesting. What walks a statement recurses, and
/// must not run out of stack; a test holds these to the stack of a worker thread.
pub(super) const MAX_OPERATORS: usize = 400;
pub(super) const MAX_DEPTH: usize = 32;

/// Where a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    /// Somebody has just written it.
    New,
    /// It was admitted before, perhaps by an earlier release.
    Stored,
}

/// How bad it is what is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    /// It cannot be enforced.
    Mistake,
    /// It can, and no new text may be so.
    Untidy,
}

/// Reads one text, and finds everything that is wrong with it.
pub(super) struct Reader<'a> {
    text: &'a str,
    from: Text,
    extents: Vec<Extent>,
    problems: Vec<PolicyProblem>,
    /// Of a stored text, what only a new one is refused for.
    outdated: Vec<PolicyProblem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, from: Text) -> Self {
        Self { text, from, extents: extents(text), problems: Vec::new(), outdated: Vec::new() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Whether nothing was found wrong until now.
    pub(super) fn has_no_problems(&self) -> bool {
        self.problems.is_empty()
    }

    /// What only a new text would be refused for, in the order of the text.
    pub(super) fn outdated(self) -> Vec<PolicyProblem> {
        let mut outdated = self.outdated;
        outdated.sort_by_key(|problem| (problem.line, problem.column));
        outdated.dedup();
        outdated
    }
}

impl Reader<'_> {
    /// Runs one stage, and stops after it if anything was found wrong until then.
    pub(super) fn finish_stage<T>(
        &mut self,
        stage: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, Vec<PolicyProblem>> {
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

    pub(super) fn check_size(&mut self) {
        if self.text.len() > MAX_TEXT_LEN {
            let message =
                format!("a policy has at most {MAX_TEXT_LEN} bytes, this one has {}", self.text.len());
            self.report_as(Grade::Untidy, 0, 1, message, Some("split it into several policies".to_owned()));
        }
        for extent in self.extents.clone() {
            let Some(message) = problem_of_size(&extent) else { continue };
            let help =
                "split it into several statements, or use a set: [\"/a\", \"/b\"].contains(context.path)";
            self.report_at(extent, &message, Some(help.to_owned()));
        }
    }

    pub(super) fn parse(&mut self) -> PolicySet {
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
    pub(super) fn parse_any(&mut self) -> PolicySet {
        PolicySet::from_str(self.text).unwrap_or_else(|errors| {
            errors.iter().for_each(|error| self.report_cedar(Grade::Mistake, error));
            PolicySet::new()
        })
    }

    pub(super) fn validate(&mut self, set: &PolicySet) {
        // The original text: validation reads types and attributes, never the ids that are still short.
        let validate = |world: &World| world.validator.validate(set, ValidationMode::Strict);
        let written = validate(&VOCABULARY.writing);
        let (errors, warnings) = worth_telling(&written);
        errors.into_iter().for_each(|error| self.report_cedar(Grade::Mistake, error));
        // A method may come to be a read once the policy is there.
        let read = may_be_calls(set).then(|| validate(&VOCABULARY.reading));
        if let Some(read) = &read {
            let (errors, _) = worth_telling(read);
            errors.into_iter().for_each(|error| self.report_cedar(Grade::Mistake, error));
        }
        let warnings =
            warnings.into_iter().filter(|warning| !read.as_ref().is_some_and(|read| applies(read, warning)));
        warnings.for_each(|warning| self.report_cedar(Grade::Untidy, warning));
        // What is wrong for several actions is said of each: one of them will do.
        let told_first = |problem: &PolicyProblem| {
            let PolicyProblem { line, column, length, message, help } = problem;
            (*line, *column, *length, help.is_none(), message.clone())
        };
        for found in [&mut self.problems, &mut self.outdated] {
            found.sort_by_cached_key(told_first);
            found.dedup_by_key(|problem| (problem.line, problem.column, problem.length));
        }
    }

    pub(super) fn statements(
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
        // Cedar's own samples write sentences there: those stay in the text, and name nothing.
        let written =
            |policy: &Policy| policy.annotation("id").filter(|id| Name::parse(id).is_ok()).map(str::to_owned);
        let mut places: HashMap<String, usize> = HashMap::new();
        for policy in &policies {
            if let Some(id) = written(policy) {
                places.entry(id).or_insert_with(|| self.extent_of(policy.id()).start);
            }
        }
        let mut others = (policies.len() + 1..).map(|number| number.to_string());
        for (index, policy) in policies.iter().enumerate() {
            let extent = self.extent_of(policy.id());
            self.check_reach(policy, mode, extent);
            let own = written(policy);
            // Earlier releases took sentences for ids: what they admitted did not collide then.
            let grade = if own.is_some() { Grade::Mistake } else { Grade::Untidy };
            let (is_written, mut id) = (own.is_some(), own.unwrap_or_else(|| (index + 1).to_string()));
            if let Some(first) =
                places.get(&id).copied().filter(|first| !is_written || *first != extent.start)
            {
                let (line, _) = line_and_column(self.text, first);
                let place = self.place_of(extent, "@id");
                let message = format!("the id {id:?} is already that of line {line}");
                self.report_as(grade, place.0, place.1, message, None);
                // What is written keeps its name.
                id = others.find(|other| !places.contains_key(other)).unwrap_or(id);
            }
            let name = if policies.len() == 1 { document.to_owned() } else { format!("{document}/{id}") };
            match qualify(policy, names) {
                Ok(qualified) => {
                    let effect = if permits(policy) { Effect::Allow } else { Effect::Deny };
                    let Qualified { policy: full, reads, text, mentions, following, untidy } = qualified;
                    self.report_flaws(extent, untidy);
                    let names_routes = mentions.iter().any(|mention| is_of_routes(&mention.referent));
                    let routes_forbidden = match effect {
                        Effect::Deny if names_routes => by_conditions(&full, names),
                        _ => Vec::new(),
                    };
                    let roles = mentions.into_iter().filter_map(|mention| {
                        let role = match &mention.referent {
                            Referent::Role(role) => Some(role.clone()),
                            _ => None,
                        };
                        references.push(self.reference(mention, effect, extent));
                        role
                    });
                    let roles = roles.collect();
                    let labels = (!reads.labels.is_empty()).then(|| LabelsRead::of(&full, &reads));
                    let resource = named(&full.resource_constraint()).and_then(|uid| {
                        let referent = names.qualify(Kind::of(uid)?, uid.id().unescaped());
                        referent.ok().map(|(_, referent)| referent)
                    });
                    let (named, reads) = (NamedReads::of(&reads), reads.facts);
                    statements.push(Statement {
                        name,
                        policy: full,
                        text,
                        resource,
                        routes_forbidden,
                        roles,
                        labels,
                        named,
                        reads,
                        following,
                    });
                }
                Err(flaws) => self.report_flaws(extent, flaws),
            }
        }
        (statements, references)
    }

    /// The names that a text mentions, if it can be parsed.
    pub(super) fn references(mut self, names: &Namespace) -> Vec<Reference> {
        self.check_size();
        let Ok(set) = self.finish_stage(|reader| reader.parse()) else { return Vec::new() };
        let mut policies: Vec<&Policy> = set.policies().collect();
        policies.sort_by_key(|policy| ordinal(policy.id()));
        let of_all = policies.into_iter().flat_map(|policy| {
            let (extent, effect) =
                (self.extent_of(policy.id()), if permits(policy) { Effect::Allow } else { Effect::Deny });
            let tree = policy.to_json().ok();
            let mentions = tree.into_iter().flat_map(|tree| find_mentions(tree, names));
            mentions.map(|mention| self.reference(mention, effect, extent)).collect::<Vec<_>>()
        });
        of_all.collect()
    }

    /// A mention of a statement, and where it stands.
    fn reference(&self, Mention { referent, text }: Mention, effect: Effect, extent: Extent) -> Reference {
        let (line, column) = line_and_column(self.text, self.place_of(extent, &text).0);
        Reference { referent, text, effect, line, column }
    }

    pub(super) fn report_flaws(&mut self, extent: Extent, flaws: Vec<Flaw>) {
        for Flaw { text, message, help, grade } in flaws {
            let (start, length) = self.place_of(extent, &text);
            let message = if text.is_empty() { message } else { format!("{text}: {message}") };
            self.report_as(grade, start, length, message, (!help.is_empty()).then_some(help));
        }
    }

    pub(super) fn extent_of(&self, id: &PolicyId) -> Extent {
        let everything = Extent { end: self.text.len(), ..Extent::default() };
        self.extents.get(ordinal(id)).copied().unwrap_or(everything)
    }

    /// The place of `needle` within a statement, else of the statement's first line.
    pub(super) fn place_of(&self, extent: Extent, needle: &str) -> (usize, usize) {
        let text = self.text.get(extent.start..extent.end).unwrap_or_default();
        match text.find(needle) {
            Some(at) if !needle.is_empty() => (extent.start + at, needle.len()),
            _ => (extent.start, text.lines().next().unwrap_or_default().len()),
        }
    }

    fn report_cedar(&mut self, grade: Grade, error: &(impl Diagnostic + fmt::Display)) {
        let label = error.labels().and_then(|mut labels| labels.next());
        let (start, length) = label.as_ref().map_or((0, 1), |label| (label.offset(), label.len()));
        // Cedar begins its messages with its own number of the statement, which says less than the place does.
        let message = error.to_string();
        let message = match message.strip_prefix("for policy `").and_then(|rest| rest.split_once('`')) {
            Some((_, message)) => message.trim_start_matches([',', ':', ' ']).to_owned(),
            None => message,
        };
        let label = label.and_then(|label| label.label().map(ToOwned::to_owned));
        let help = advice(&message).or_else(|| error.help().map(|help| help.to_string()));
        let help = match (help, label) {
            (Some(help), _) => Some(help),
            (None, label) => label.filter(|label| !message.contains(label.as_str())),
        };
        self.report_as(grade, start, length, message, help);
    }

    pub(super) fn report_at(&mut self, extent: Extent, message: &str, help: Option<String>) {
        let (start, length) = self.place_of(extent, "");
        self.report(start, length, message.to_owned(), help);
    }

    pub(super) fn report(&mut self, start: usize, length: usize, message: String, help: Option<String>) {
        self.report_as(Grade::Mistake, start, length, message, help);
    }

    pub(super) fn report_as(
        &mut self,
        grade: Grade,
        start: usize,
        length: usize,
        message: String,
        help: Option<String>,
    ) {
        let (line, column) = line_and_column(self.text, start);
        let concerned = start..start.saturating_add(length);
        let length = self.text.char_indices().filter(|(index, _)| concerned.contains(index)).count().max(1);
        let found = match (grade, self.from) {
            (Grade::Mistake, _) | (Grade::Untidy, Text::New) => &mut self.problems,
            (Grade::Untidy, Text::Stored) => &mut self.outdated,
        };
        found.push(PolicyProblem { line, column, length, message, help });
    }
}

/// Cedar numbers the statements of a text `policy0`, `policy1` and so on.
pub(super) fn ordinal(id: &PolicyId) -> usize {
    let id: &str = id.as_ref();
    id.strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

/// Whether a text holds nothing but permits, of policies or templates, whatever else may be wrong with it: whoever does
/// without it lets through no more.
pub fn only_permits(text: &str) -> bool {
    let is_read = extents(text).iter().all(|extent| problem_of_size(extent).is_none());
    let set = is_read.then(|| PolicySet::from_str(text).ok()).flatten();
    set.is_some_and(|set| {
        let of_templates = set.templates().all(|template| template.effect() == CedarEffect::Permit);
        !set.is_empty() && of_templates && set.policies().all(permits)
    })
}

/// What is wrong with the measures of a statement.
fn problem_of_size(extent: &Extent) -> Option<String> {
    if extent.operators > MAX_OPERATORS {
        return Some(format!("a statement has at most {} operators", MAX_OPERATORS / 2));
    }
    (extent.depth > MAX_DEPTH).then(|| format!("a statement nests at most {MAX_DEPTH} deep"))
}
