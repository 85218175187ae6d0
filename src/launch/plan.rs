//! The plan as the core uses it: every default applied, every metric name replaced by its definition, hashed.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::Decimal;

use crate::api::{
    self, AgentDeploymentSpec, Amount, DeadlineOutcome, GateBounds, GateRatioBounds, MetricDefinition, OnFail,
    PodCondition, TriggerBounds, TriggerRatioBounds, WindowSpan, short_hex, span,
};

/// How a launch is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Names the plan: any change of what follows changes it.
    pub hash: String,
    /// At least one stage, in rising order of weight.
    pub stages: Vec<Stage>,
    /// What ends a launch.
    pub triggers: Vec<Trigger>,
    /// How often metrics are sampled.
    pub interval: Duration,
    /// The metrics source, by name.
    pub source: String,
}

/// One step of a launch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stage {
    /// Name of the stage.
    pub name: String,
    /// The canary's share in percent, 0 to 100.
    pub weight: i32,
    /// The stage lasts at least so long.
    pub min_duration: Duration,
    /// It lasts at most so long.
    pub deadline: Duration,
    /// What happens then.
    pub then: DeadlineOutcome,
    /// What must pass before it is left.
    pub gates: Vec<Gate>,
}

/// Must pass before its stage is left.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// Name of the gate.
    pub name: String,
    /// What it looks at.
    pub check: GateCheck,
    /// What a failing gate does.
    pub on_fail: OnFail,
}

/// What a gate looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GateCheck {
    /// A metric within bounds.
    Metric(Box<Question>),
    /// All pods ready for so long.
    Health(Duration),
}

/// Ends a launch when it has been in breach for `lasting`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trigger {
    /// Name of the trigger.
    pub name: String,
    /// What it looks at.
    pub check: TriggerCheck,
    /// How long the breach must last.
    pub lasting: Duration,
}

/// What a trigger looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TriggerCheck {
    /// A metric out of bounds.
    Metric(Box<Question>),
    /// So many restarts within a span.
    Restarts(i32, Duration),
    /// A condition of the pods.
    Condition(PodCondition),
}

/// A question to the metrics source: is this metric of the canary within bounds?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// What is measured.
    pub metric: MetricDefinition,
    /// Over which span of data. Counts and gauges have none.
    pub window: Option<Duration>,
    /// Fewer events are not enough.
    pub min_samples: i64,
    /// What the canary is compared with.
    pub compare: Compare,
    /// `low <= compared value <= high` passes.
    pub bounds: Bounds,
}

/// What the canary's value is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// The bounds themselves.
    Value,
    /// Multiples of stable's value.
    RatioToStable,
    /// Stable's value plus the bounds.
    DifferenceFromStable,
}

/// Inclusive bounds in base units.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The smallest value that passes.
    pub low: Option<Decimal>,
    /// The largest value that passes.
    pub high: Option<Decimal>,
    /// With a ratio to stable: the upper limit never falls below this.
    pub floor: Option<Decimal>,
}

/// A plan that cannot be understood. The API server's rules refuse these; an old object or an edited CRD may still hold one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A gate or trigger names a metric that nobody defined.
    #[error(
        "{place} names metric {metric:?}, which is neither standard nor in spec.metrics.define: correct the name or define it"
    )]
    UnknownMetric {
        /// The gate or trigger.
        place: String,
        /// The name.
        metric: String,
    },
    /// A union without exactly one member.
    #[error("{0} must have exactly one of its kinds: keep one")]
    NotOne(String),
    /// A plan without stages.
    #[error("spec.launch.stages is empty: remove it for the built-in plan, or write a stage")]
    NoStages,
    /// Shares must rise.
    #[error("spec.launch.stages: {0:?} is not above the stage before it: shares must rise")]
    NotRising(String),
}

/// Resolves the plan of an agent: defaults, metric definitions, hash.
pub fn resolve(spec: &AgentDeploymentSpec) -> Result<Plan, PlanError> {
    let gateway = spec.traffic.as_ref().is_some_and(|traffic| traffic.gateway.is_some());
    let written = spec.launch.clone().unwrap_or_default();
    let basic = api::basic_plan(gateway);
    let metrics = definitions(spec);
    let defaults = written.stage_defaults.clone().unwrap_or_default();
    let stages = written.stages.or(basic.stages).unwrap_or_default();
    let triggers = written.triggers.or(basic.triggers).unwrap_or_default();

    let stages = stages.iter().map(|stage| resolve_stage(stage, &defaults, &metrics)).collect::<Result<Vec<_>, _>>()?;
    if stages.is_empty() {
        return Err(PlanError::NoStages);
    }
    if let Some(pair) = stages.windows(2).find(|pair| pair[1].weight <= pair[0].weight) {
        return Err(PlanError::NotRising(pair[1].name.clone()));
    }
    let triggers = triggers.iter().map(|trigger| resolve_trigger(trigger, &metrics)).collect::<Result<Vec<_>, _>>()?;
    let measured = spec.metrics.clone().unwrap_or_default();
    let plan = Plan {
        hash: String::new(),
        stages,
        triggers,
        interval: measured.interval.as_ref().map_or(api::DEFAULT_INTERVAL, span),
        source: measured.source_ref.map_or_else(|| "default".to_owned(), |source| source.name),
    };
    Ok(Plan { hash: hash(&plan), ..plan })
}

/// Hash of a resolved plan; 10 hexadecimal digits.
fn hash(plan: &Plan) -> String {
    use sha2::{Digest, Sha256};
    let text = format!("plan/v1 {:?} {:?} {:?} {:?}", plan.stages, plan.triggers, plan.interval, plan.source);
    short_hex(&Sha256::digest(text.as_bytes()))
}

/// The metrics an agent may name: the standard ones, overridden by its own.
pub fn definitions(spec: &AgentDeploymentSpec) -> BTreeMap<String, MetricDefinition> {
    let own = spec.metrics.iter().flat_map(|metrics| metrics.define.clone());
    api::standard_metrics().into_iter().chain(own).map(|metric| (metric.name.clone(), metric)).collect()
}

fn resolve_stage(
    stage: &api::Stage,
    defaults: &api::StageDefaults,
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Stage, PlanError> {
    let deadline = stage.deadline.as_ref().or(defaults.deadline.as_ref());
    Ok(Stage {
        name: stage.name.clone(),
        weight: stage.traffic.clamp(0, 100),
        min_duration: stage.min_duration.as_ref().map_or(Duration::ZERO, span),
        deadline: deadline.map_or(api::DEFAULT_DEADLINE, |deadline| span(&deadline.after)),
        then: deadline.map_or(DeadlineOutcome::Rollback, |deadline| deadline.then),
        gates: stage.gates.iter().map(|gate| resolve_gate(&stage.name, gate, metrics)).collect::<Result<_, _>>()?,
    })
}

fn resolve_gate(
    stage: &str,
    gate: &api::Gate,
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Gate, PlanError> {
    let place = format!("spec.launch.stages[{stage}].gates[{}]", gate.name);
    let check = match (&gate.metric, &gate.health) {
        (Some(metric), None) => GateCheck::Metric(Box::new(question(
            &place,
            &metric.name,
            (metric.window, metric.min_samples),
            [
                metric.value.as_ref().map(|bounds| (Compare::Value, bounds.into())),
                metric.ratio_to_stable.as_ref().map(|bounds| (Compare::RatioToStable, bounds.into())),
                metric.difference_from_stable.as_ref().map(|bounds| (Compare::DifferenceFromStable, bounds.into())),
            ],
            metrics,
        )?)),
        (None, Some(health)) => GateCheck::Health(health.lasting.as_ref().map_or(Duration::ZERO, span)),
        _ => return Err(PlanError::NotOne(place)),
    };
    Ok(Gate { name: gate.name.clone(), check, on_fail: gate.on_fail })
}

fn resolve_trigger(trigger: &api::Trigger, metrics: &BTreeMap<String, MetricDefinition>) -> Result<Trigger, PlanError> {
    let place = format!("spec.launch.triggers[{}]", trigger.name);
    let check = match (&trigger.metric, &trigger.health) {
        (Some(metric), None) => TriggerCheck::Metric(Box::new(question(
            &place,
            &metric.name,
            (metric.window, metric.min_samples),
            [
                metric.value.as_ref().map(|bounds| (Compare::Value, bounds.into())),
                metric.ratio_to_stable.as_ref().map(|bounds| (Compare::RatioToStable, bounds.into())),
                metric.difference_from_stable.as_ref().map(|bounds| (Compare::DifferenceFromStable, bounds.into())),
            ],
            metrics,
        )?)),
        (None, Some(health)) => match (health.restarts, &health.within, health.condition) {
            (Some(restarts), Some(within), None) => TriggerCheck::Restarts(restarts, span(within)),
            (None, None, Some(condition)) => TriggerCheck::Condition(condition),
            _ => return Err(PlanError::NotOne(format!("{place}.health"))),
        },
        _ => return Err(PlanError::NotOne(place)),
    };
    Ok(Trigger { name: trigger.name.clone(), check, lasting: trigger.lasting.as_ref().map_or(Duration::ZERO, span) })
}

fn question(
    place: &str,
    name: &str,
    (window, min_samples): (Option<WindowSpan>, Option<i64>),
    comparisons: [Option<(Compare, Bounds)>; 3],
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Question, PlanError> {
    let metric = metrics
        .get(name)
        .ok_or_else(|| PlanError::UnknownMetric { place: place.to_owned(), metric: name.to_owned() })?
        .clone();
    let mut given = comparisons.into_iter().flatten();
    let (Some((compare, bounds)), None) = (given.next(), given.next()) else {
        return Err(PlanError::NotOne(format!("{place}.metric")));
    };
    let instant = metric.count.is_some() || metric.gauge.is_some();
    let window = (!instant).then(|| window.map_or(api::DEFAULT_WINDOW, |span| span.0));
    Ok(Question { metric, window, min_samples: min_samples.unwrap_or(api::DEFAULT_MIN_SAMPLES), compare, bounds })
}

fn value(amount: Option<&Amount>) -> Option<Decimal> {
    amount.map(Amount::value)
}

impl From<&GateBounds> for Bounds {
    fn from(bounds: &GateBounds) -> Self {
        Self { low: value(bounds.at_least.as_ref()), high: value(bounds.at_most.as_ref()), floor: None }
    }
}

impl From<&GateRatioBounds> for Bounds {
    fn from(bounds: &GateRatioBounds) -> Self {
        Self {
            low: value(bounds.at_least.as_ref()),
            high: value(bounds.at_most.as_ref()),
            floor: value(bounds.floor.as_ref()),
        }
    }
}

impl From<&TriggerBounds> for Bounds {
    fn from(bounds: &TriggerBounds) -> Self {
        Self { low: value(bounds.below.as_ref()), high: value(bounds.above.as_ref()), floor: None }
    }
}

impl From<&TriggerRatioBounds> for Bounds {
    fn from(bounds: &TriggerRatioBounds) -> Self {
        Self {
            low: value(bounds.below.as_ref()),
            high: value(bounds.above.as_ref()),
            floor: value(bounds.floor.as_ref()),
        }
    }
}

/// The built-in plan alone, for an agent whose own plan cannot be understood.
pub fn basic(spec: &AgentDeploymentSpec) -> Plan {
    let gateway = spec.traffic.as_ref().is_some_and(|traffic| traffic.gateway.is_some());
    let basic = api::basic_plan(gateway);
    let none = BTreeMap::new();
    let stages = basic.stages.iter().flatten();
    let plan = Plan {
        hash: String::new(),
        stages: stages.filter_map(|s| resolve_stage(s, &api::StageDefaults::default(), &none).ok()).collect(),
        triggers: basic.triggers.iter().flatten().filter_map(|t| resolve_trigger(t, &none).ok()).collect(),
        interval: api::DEFAULT_INTERVAL,
        source: "default".to_owned(),
    };
    Plan { hash: hash(&plan), ..plan }
}
