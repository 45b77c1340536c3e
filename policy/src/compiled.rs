//! One statement, ready to decide.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::compile::CompileError;
use crate::document::Mode;
use crate::evaluation::Evaluation;
use crate::facts::{Principal, Resource};
use crate::named::PortRead;
use crate::outcomes::{ConditionOutcome, condition_of};
use crate::reads::Reads;
use crate::slice::{PolicySlice, SlicedPolicy};
use crate::vocabulary::{Action, ActionSet, Kind, VOCABULARY, World};
use cedar_policy::{
    Effect as CedarEffect, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint, ValidationMode,
};

/// One statement with what can be told from it beforehand. It depends on nothing but its own text and the schema, and
/// so serves any engine that has it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) name: Arc<str>,
    pub(crate) mode: Mode,
    text: Box<str>,
    /// Its effect is to permit; otherwise it forbids.
    pub(crate) permits: bool,
    pub(crate) principal: PrincipalConstraint,
    pub(crate) resource: ResourceConstraint,
    pub(crate) actions: ActionSet,
    /// The roles that it mentions.
    pub(crate) roles: Vec<EntityUid>,
    /// All entities that it mentions, where Cedar must be asked: it may look at them.
    pub(crate) literals: Vec<EntityUid>,
    pub(crate) reads: Reads,
    /// The ports and routes that its conditions ask about.
    pub(crate) ports: Vec<PortRead>,
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

/// Compiles a slice's statements, except those that are among `former`. They must be valid for methods that write, and
/// where the node `reads_calls`, for those that read too, which is looked at once of each, whichever nodes have it.
pub(crate) fn compile_statements(
    slice: &PolicySlice,
    former: &[Arc<Compiled>],
    reads_calls: bool,
) -> Result<Vec<Arc<Compiled>>, CompileError> {
    let former: HashMap<&str, &Arc<Compiled>> =
        former.iter().map(|compiled| (&*compiled.name, compiled)).collect();
    let mut policies = Vec::with_capacity(slice.policies.len());
    let mut names = HashSet::with_capacity(slice.policies.len());
    // Each statement by itself: those that are not new were found valid when they were.
    let (mut new, mut new_to_reads) =
        (Validation::by(&VOCABULARY.writing), Validation::by(&VOCABULARY.reading));
    let mut shared = Shared::default();
    for sliced in &slice.policies {
        if !names.insert(&*sliced.name) {
            return Err(CompileError::Duplicate(sliced.name.clone()));
        }
        let compiled = match former.get(&*sliced.name).filter(|compiled| compiled.is_of(sliced)) {
            Some(same) => Arc::clone(same),
            None => {
                let policy = parse(&sliced.name, &sliced.text)?;
                let compiled = Compiled::of(sliced, &policy, &mut shared)?;
                if compiled.is_plainly_valid(&policy) {
                    compiled.is_valid_of_reads.store(true, Ordering::Relaxed);
                } else {
                    new.look_at(policy)?;
                }
                Arc::new(compiled)
            }
        };
        if reads_calls && !compiled.is_valid_of_reads.load(Ordering::Relaxed) {
            new_to_reads.look_at(parse(&sliced.name, &sliced.text)?)?;
        }
        policies.push(compiled);
    }
    new.finish()?;
    new_to_reads.finish()?;
    if reads_calls {
        policies.iter().for_each(|compiled| compiled.is_valid_of_reads.store(true, Ordering::Relaxed));
    }
    Ok(policies)
}

/// Looks whether statements are valid by the schema, some at once: of each there are some KiB until then.
struct Validation {
    world: &'static World,
    set: PolicySet,
}

impl Validation {
    const AT_ONCE: usize = 32;

    fn by(world: &'static World) -> Self {
        Self { world, set: PolicySet::new() }
    }

    fn look_at(&mut self, policy: Policy) -> Result<(), CompileError> {
        let name = policy.id().to_string();
        self.set.add(policy).map_err(|_| CompileError::Duplicate(name))?;
        if self.set.num_of_policies() < Self::AT_ONCE { Ok(()) } else { self.finish() }
    }

    /// Looks at the rest.
    fn finish(&mut self) -> Result<(), CompileError> {
        let result = self.world.validator.validate(&take(&mut self.set), ValidationMode::Strict);
        result.validation_errors().next().map_or(Ok(()), |error| {
            let name = error.policy_id().to_string();
            Err(CompileError::Invalid { name, reason: error.to_string() })
        })
    }
}

/// What many statements name, once for all of them. As Cedar reads them, names hold on to the text that they stood in.
#[derive(Default)]
struct Shared {
    uids: HashSet<EntityUid>,
    conditions: HashSet<Arc<str>>,
}

impl Shared {
    fn uid(&mut self, uid: &EntityUid) -> EntityUid {
        if let Some(known) = self.uids.get(uid) {
            return known.clone();
        }
        let kind = Kind::parse(&uid.type_name().to_string());
        let own = kind.map_or_else(|| uid.clone(), |kind| kind.uid(uid.id()));
        self.uids.insert(own.clone());
        own
    }

    fn condition(&mut self, text: Arc<str>) -> Arc<str> {
        match self.conditions.get(&text) {
            Some(known) => Arc::clone(known),
            None => {
                self.conditions.insert(Arc::clone(&text));
                text
            }
        }
    }

    fn principal(&mut self, constraint: PrincipalConstraint) -> PrincipalConstraint {
        match constraint {
            PrincipalConstraint::Any => PrincipalConstraint::Any,
            PrincipalConstraint::Eq(uid) => PrincipalConstraint::Eq(self.uid(&uid)),
            PrincipalConstraint::In(uid) => PrincipalConstraint::In(self.uid(&uid)),
            PrincipalConstraint::Is(of) => PrincipalConstraint::Is(type_name(of)),
            PrincipalConstraint::IsIn(of, uid) => PrincipalConstraint::IsIn(type_name(of), self.uid(&uid)),
        }
    }

    fn resource(&mut self, constraint: ResourceConstraint) -> ResourceConstraint {
        match constraint {
            ResourceConstraint::Any => ResourceConstraint::Any,
            ResourceConstraint::Eq(uid) => ResourceConstraint::Eq(self.uid(&uid)),
            ResourceConstraint::In(uid) => ResourceConstraint::In(self.uid(&uid)),
            ResourceConstraint::Is(of) => ResourceConstraint::Is(type_name(of)),
            ResourceConstraint::IsIn(of, uid) => ResourceConstraint::IsIn(type_name(of), self.uid(&uid)),
        }
    }
}

fn type_name(name: EntityTypeName) -> EntityTypeName {
    Kind::parse(&name.to_string()).map_or(name, |kind| kind.type_name().clone())
}

fn parse(name: &str, text: &str) -> Result<Policy, CompileError> {
    Policy::parse(Some(PolicyId::new(name)), text)
        .map_err(|error| CompileError::Invalid { name: name.to_owned(), reason: error.to_string() })
}

impl Compiled {
    /// What can be told from a statement. Whether it is valid by the schema is not looked at.
    fn of(sliced: &SlicedPolicy, policy: &Policy, shared: &mut Shared) -> Result<Self, CompileError> {
        let invalid = |reason: String| CompileError::Invalid { name: sliced.name.clone(), reason };
        let is_conditional = policy.has_non_scope_constraint();
        let (mut reads, mut evaluation, mut condition) = (Reads::default(), Evaluation::always(), None);
        // Cedar reads the text again for that.
        if is_conditional {
            let tree = policy.to_json().map_err(|error| invalid(error.to_string()))?;
            (reads, evaluation) = (Reads::of(&tree), Evaluation::of(&tree, policy));
            condition = condition_of(&tree).map(|text| shared.condition(text));
        }
        if let Some(flaw) = reads.flaws.first() {
            return Err(invalid(format!("{}: {}", flaw.text, flaw.message)));
        }
        let unreadable = || invalid("a port or route that it names is none of a node".to_owned());
        let ports = PortRead::all(&reads).ok_or_else(unreadable)?;
        let mut literals: Vec<_> = policy.entity_literals().iter().map(|uid| shared.uid(uid)).collect();
        let roles = literals.iter().filter(|uid| Kind::of(uid) == Some(Kind::Role)).cloned().collect();
        if evaluation.for_cedar().is_none() {
            literals = Vec::new();
        }
        Ok(Self {
            name: sliced.name.as_str().into(),
            mode: sliced.mode,
            text: sliced.text.as_str().into(),
            principal: shared.principal(policy.principal_constraint()),
            resource: shared.resource(policy.resource_constraint()),
            actions: VOCABULARY.admitted(&policy.action_constraint()),
            roles,
            literals,
            headers: reads.headers.iter().map(|name| Arc::from(&**name)).collect(),
            reads,
            ports,
            evaluation,
            condition,
            is_conditional,
            permits: permits(policy),
            is_valid_of_reads: AtomicBool::new(false),
        })
    }

    /// Whether it is nothing but a scope whose names the schema knows, in which there is nothing for a validator to
    /// find. Most of what a large mesh has is that, and to look at each with each action and type takes as long as to
    /// parse it.
    fn is_plainly_valid(&self, policy: &Policy) -> bool {
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
        !self.is_conditional && principal && resource && policy.entity_literals().iter().all(is_known)
    }

    fn is_of(&self, SlicedPolicy { name, mode, text }: &SlicedPolicy) -> bool {
        *self.name == **name && self.mode == *mode && *self.text == **text
    }

    /// It as Cedar takes it, which is read again where Cedar is not asked to decide.
    pub(crate) fn policy(&self) -> Result<Cow<'_, Policy>, CompileError> {
        match self.evaluation.for_cedar() {
            Some(policy) => Ok(Cow::Borrowed(policy)),
            None => Ok(Cow::Owned(parse(&self.name, &self.text)?)),
        }
    }

    /// The same statement for what meets its conditions, whatever that is.
    pub(crate) fn without_conditions(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            mode: self.mode,
            text: self.text.clone(),
            permits: self.permits,
            principal: self.principal.clone(),
            resource: self.resource.clone(),
            actions: self.actions,
            roles: self.roles.clone(),
            literals: Vec::new(),
            headers: Box::default(),
            reads: Reads::default(),
            ports: Vec::new(),
            evaluation: Evaluation::always(),
            condition: None,
            is_conditional: false,
            is_valid_of_reads: AtomicBool::new(self.is_valid_of_reads.load(Ordering::Relaxed)),
        }
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

    /// Whether the scope admits this caller and action, as what can be done with the resource; the resource itself
    /// aside.
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
