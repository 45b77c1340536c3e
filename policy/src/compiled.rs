//! One statement, ready to decide.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cedar_policy::{
    Effect as CedarEffect, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint, ValidationMode,
};
use serde_json::Value;

use crate::compile::CompileError;
use crate::document::Mode;
use crate::evaluation::Evaluation;
use crate::facts::{Principal, Resource};
use crate::outcomes::{ConditionOutcome, condition_of};
use crate::reads::Reads;
use crate::slice::{PolicySlice, SlicedPolicy};
use crate::vocabulary::{Action, ActionSet, Kind, VOCABULARY};

/// One statement with what can be told from it beforehand. It depends on nothing but its own text and the schema, and
/// so serves any engine that has it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) name: Arc<str>,
    pub(crate) mode: Mode,
    text: Box<str>,
    pub(crate) policy: Policy,
    /// Its effect is to permit; otherwise it forbids.
    pub(crate) permits: bool,
    pub(crate) principal: PrincipalConstraint,
    pub(crate) resource: ResourceConstraint,
    pub(crate) actions: ActionSet,
    /// The roles that it mentions.
    pub(crate) roles: Vec<EntityUid>,
    /// All entities that it mentions.
    pub(crate) literals: Vec<EntityUid>,
    pub(crate) reads: Reads,
    pub(crate) evaluation: Evaluation,
    /// Its conditions, where the request alone bears on them.
    pub(crate) condition: Option<Arc<str>>,
    /// It has conditions; otherwise whatever its scope admits is what it is about.
    pub(crate) is_conditional: bool,
    /// The header fields that it names.
    pub(crate) headers: Box<[Arc<str>]>,
    /// Set once it was found valid for methods that read, too.
    is_valid_of_reads: AtomicBool,
}

/// Compiles a slice's statements, except those that are among `former`. They must be valid for methods that write, and where the
/// node `reads_calls`, for those that read too, which is looked at once of each, whichever nodes have it.
pub(crate) fn compile_statements(
    slice: &PolicySlice,
    former: &[Arc<Compiled>],
    reads_calls: bool,
) -> Result<Vec<Arc<Compiled>>, CompileError> {
    let former: HashMap<&str, &Arc<Compiled>> =
        former.iter().map(|compiled| (&*compiled.name, compiled)).collect();
    let mut policies = Vec::with_capacity(slice.policies.len());
    let mut names = HashSet::with_capacity(slice.policies.len());
    let (mut new, mut new_to_reads) = (PolicySet::new(), PolicySet::new());
    for sliced in &slice.policies {
        let duplicate = || CompileError::Duplicate(sliced.name.clone());
        if !names.insert(&*sliced.name) {
            return Err(duplicate());
        }
        let compiled = match former.get(&*sliced.name).filter(|compiled| compiled.is_of(sliced)) {
            Some(same) => Arc::clone(same),
            None => {
                let compiled = Compiled::parse(sliced)?;
                if compiled.is_plainly_valid() {
                    compiled.is_valid_of_reads.store(true, Ordering::Relaxed);
                } else {
                    new.add(compiled.policy.clone()).map_err(|_| duplicate())?;
                }
                Arc::new(compiled)
            }
        };
        if reads_calls && !compiled.is_valid_of_reads.load(Ordering::Relaxed) {
            new_to_reads.add(compiled.policy.clone()).map_err(|_| duplicate())?;
        }
        policies.push(compiled);
    }
    // Each statement by itself: those that are not new were found valid when they were.
    for (world, set) in [(&VOCABULARY.writing, &new), (&VOCABULARY.reading, &new_to_reads)] {
        let result = world.validator.validate(set, ValidationMode::Strict);
        if let Some(error) = result.validation_errors().next() {
            let name = error.policy_id().to_string();
            return Err(CompileError::Invalid { name, reason: error.to_string() });
        }
    }
    if reads_calls {
        policies.iter().for_each(|compiled| compiled.is_valid_of_reads.store(true, Ordering::Relaxed));
    }
    Ok(policies)
}

impl Compiled {
    /// Reads a statement. Whether it is valid by the schema is not looked at.
    fn parse(sliced: &SlicedPolicy) -> Result<Self, CompileError> {
        let invalid = |reason: String| CompileError::Invalid { name: sliced.name.clone(), reason };
        let policy = Policy::parse(Some(PolicyId::new(&sliced.name)), &sliced.text)
            .map_err(|error| invalid(error.to_string()))?;
        let is_conditional = policy.has_non_scope_constraint();
        let (mut reads, mut evaluation, mut condition) = (Reads::default(), Evaluation::always(), None);
        // Cedar reads the text again for that.
        if is_conditional {
            let tree = policy.to_json().map_err(|error| invalid(error.to_string()))?;
            (reads, evaluation, condition) = (Reads::of(&tree), Evaluation::of(&tree), condition_of(&tree));
        }
        if let Some(flaw) = reads.flaws.first() {
            return Err(invalid(format!("{}: {}", flaw.text, flaw.message)));
        }
        let literals = policy.entity_literals();
        let roles = literals.iter().filter(|uid| Kind::of(uid) == Some(Kind::Role)).cloned().collect();
        Ok(Self {
            name: sliced.name.as_str().into(),
            mode: sliced.mode,
            text: sliced.text.as_str().into(),
            principal: policy.principal_constraint(),
            resource: policy.resource_constraint(),
            actions: VOCABULARY.admitted(&policy.action_constraint()),
            roles,
            literals,
            headers: reads.headers.iter().map(|name| Arc::from(&**name)).collect(),
            reads,
            evaluation,
            condition,
            is_conditional,
            permits: permits(&policy),
            is_valid_of_reads: AtomicBool::new(false),
            policy,
        })
    }

    /// Whether it is nothing but a scope whose names the schema knows, in which there is nothing for a validator to find. Most of
    /// what a large mesh has is that, and to look at each with each action and type takes as long as to parse it.
    fn is_plainly_valid(&self) -> bool {
        // With the namespace, of which there is none.
        let is_kind = |name: &EntityTypeName| Kind::parse(&name.to_string()).is_some();
        let is_known =
            |uid: &EntityUid| is_kind(uid.type_name()) || VOCABULARY.writing.actions.get(uid).is_some();
        let principal = match &self.principal {
            PrincipalConstraint::Is(name) | PrincipalConstraint::IsIn(name, _) => is_kind(name),
            PrincipalConstraint::Any | PrincipalConstraint::In(_) | PrincipalConstraint::Eq(_) => true,
        };
        let resource = match &self.resource {
            ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => is_kind(name),
            ResourceConstraint::Any | ResourceConstraint::In(_) | ResourceConstraint::Eq(_) => true,
        };
        !self.is_conditional && principal && resource && self.literals.iter().all(is_known)
    }

    fn is_of(&self, SlicedPolicy { name, mode, text }: &SlicedPolicy) -> bool {
        *self.name == **name && self.mode == *mode && *self.text == **text
    }

    /// The same statement for what meets its conditions, whatever that is.
    pub(crate) fn without_conditions(&self) -> Option<Self> {
        let mut tree = self.policy.to_json().ok()?;
        *tree.get_mut("conditions")? = Value::Array(Vec::new());
        let policy = Policy::from_json(Some(self.policy.id().clone()), tree).ok()?;
        let literals = policy.entity_literals();
        Some(Self {
            name: Arc::clone(&self.name),
            mode: self.mode,
            text: self.text.clone(),
            permits: self.permits,
            principal: self.principal.clone(),
            resource: self.resource.clone(),
            actions: self.actions,
            roles: literals.iter().filter(|uid| Kind::of(uid) == Some(Kind::Role)).cloned().collect(),
            literals,
            headers: Box::default(),
            reads: Reads::default(),
            evaluation: Evaluation::always(),
            condition: None,
            is_conditional: false,
            is_valid_of_reads: AtomicBool::new(self.is_valid_of_reads.load(Ordering::Relaxed)),
            policy,
        })
    }

    /// How its conditions came out, where that is known beforehand.
    pub(crate) fn outcome_in(&self, given: &[ConditionOutcome]) -> Option<bool> {
        let text = self.condition.as_ref().filter(|_| !given.is_empty())?;
        given.iter().find(|known| known.text == *text).map(|known| known.is_met)
    }

    /// Whether both are one statement, word for word.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.name == other.name && self.mode == other.mode && self.text == other.text
    }

    /// Whether the scope admits this caller and action, as what can be done with the resource; the resource itself aside.
    pub(crate) fn admits(&self, principal: &Principal, action: Action, resource: &Resource) -> bool {
        self.actions.common(resource.actions).contains(action) && self.admits_principal(principal)
    }

    pub(crate) fn admits_principal(&self, principal: &Principal) -> bool {
        match &self.principal {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => *uid == principal.uid,
            PrincipalConstraint::In(uid) => principal.within.contains(uid),
            PrincipalConstraint::Is(type_name) => principal.uid.type_name() == type_name,
            PrincipalConstraint::IsIn(type_name, uid) => {
                principal.uid.type_name() == type_name && principal.within.contains(uid)
            }
        }
    }
}

/// Whether Cedar's effect is to permit.
pub(crate) fn permits(policy: &Policy) -> bool {
    policy.effect() == CedarEffect::Permit
}
