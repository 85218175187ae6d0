//! The plan as the core uses it: every default applied, every metric name replaced by its definition, hashed.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::Decimal;

use super::{WrittenPlan, by_pods};
use crate::api::{
    self, AgentDeploymentSpec, Amount, DeadlineOutcome, GateBounds, GateRatioBounds, MetricDefinition, Metrics, OnFail,
    PodCondition, RequestMatch, TriggerBounds, TriggerRatioBounds, Unit, WindowSpan, short_hex, span,
};

/// How a launch is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Names the plan: any change of what follows changes it.
    pub hash: String,
    /// Hash of the plan that a running launch has, when this one asks for all that it asks for and more: the edit restarts nothing.
    pub tightens: Option<String>,
    /// At least one stage, in rising order of weight.
    pub stages: Vec<Stage>,
    /// What ends a launch.
    pub triggers: Vec<Trigger>,
    /// How long triggers still return to the previous revision after the promotion; zero is no soak.
    pub soak: Duration,
    /// The canary's pods are at least so many. Not in the hash: a size is followed, and restarts nothing.
    pub canary_pods: i32,
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
    /// It is a share of the requests that match one of these; of all when empty.
    pub only: Vec<RequestMatch>,
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

/// How often an agent is really asked about, whatever an old object says.
pub fn sampled_every(interval: Duration) -> Duration {
    interval.clamp(Duration::from_secs(1), Duration::from_mins(1))
}

/// How far back the counters of dead pods are found.
pub const COUNT_SPAN: Duration = Duration::from_hours(1);

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

impl Question {
    /// How far back an answer may reach.
    pub(super) fn reach(&self) -> Duration {
        if self.metric.count.is_some() { COUNT_SPAN } else { self.window.unwrap_or_default() }
    }
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
    #[error("{0}.stages is empty: remove it for the built-in plan, or write a stage")]
    NoStages(String),
    /// A bound whose unit cannot be meant.
    #[error("{place}: {amount} cannot be a bound of {metric}: {mend}")]
    Unit {
        /// The gate or trigger.
        place: String,
        /// The metric.
        metric: String,
        /// The bound as it is written.
        amount: String,
        /// How to write it.
        mend: &'static str,
    },
    /// Shares must rise.
    #[error("{place}.stages: {stage:?} is not above the stage before it: shares must rise")]
    NotRising {
        /// The plan.
        place: String,
        /// The stage that does not rise.
        stage: String,
    },
    /// There is no LaunchPlan of that name.
    #[error(
        "LaunchPlan {0} does not exist: create it, or name another in spec.launch.planRef (kubectl get launchplans)"
    )]
    Missing(String),
    /// A LaunchPlan with shares of traffic, for an agent that has no gateway.
    #[error(
        "LaunchPlan {name}: stage {stage:?} asks for {share}% of the traffic: add spec.traffic.gateway, or name a plan without shares in spec.launch.planRef"
    )]
    NeedsGateway {
        /// The plan.
        name: String,
        /// Its first stage that needs a gateway.
        stage: String,
        /// The share.
        share: i32,
    },
    /// What pods cannot make.
    #[error("{0}{1}")]
    ByPods(String, String),
    /// A trigger compares shares of events by a multiple alone.
    #[error(
        "{0}: ratioToStable.above on a share of events needs a floor, because twice nothing is nothing: add floor, such as 1%"
    )]
    NoFloor(String),
    /// Something that would not make the plan stricter.
    #[error("spec.launch.tighten.{field}: {mend}")]
    CannotTighten {
        /// The field.
        field: String,
        /// What is wrong with it, and the mend.
        mend: String,
    },
}

/// Resolves the plan of an agent that names no LaunchPlan but the built-in one: defaults, metric definitions, hash.
pub fn resolve(spec: &AgentDeploymentSpec) -> Result<Plan, PlanError> {
    WrittenPlan::of(spec, None)?.resolve()
}

/// Resolves a plan as it is written.
pub(super) fn resolve_written(written: &WrittenPlan) -> Result<Plan, PlanError> {
    let basic = api::basic_plan(written.sharing());
    let WrittenPlan { place, plan: written, metrics: measured, by_pods, .. } = written.clone();
    let metrics = definitions(&measured);
    let defaults = written.stage_defaults.clone().unwrap_or_default();
    let built_in = written.stages.is_none();
    let soak = written.soak.or(basic.soak.filter(|_| built_in));
    let stages = written.stages.or(basic.stages).unwrap_or_default();
    let triggers = written.triggers.or(basic.triggers).unwrap_or_default();

    let (written_stages, written_triggers) = (stages, triggers);
    let stages = written_stages
        .iter()
        .map(|stage| resolve_stage(&place, stage, &defaults, &metrics))
        .collect::<Result<Vec<_>, _>>()?;
    if stages.is_empty() {
        return Err(PlanError::NoStages(place));
    }
    if let Some(pair) = stages.windows(2).find(|pair| pair[1].weight <= pair[0].weight) {
        return Err(PlanError::NotRising { place, stage: pair[1].name.clone() });
    }
    let triggers = written_triggers
        .iter()
        .map(|trigger| resolve_trigger(&place, trigger, &metrics))
        .collect::<Result<Vec<_>, _>>()?;
    let plan = Plan {
        hash: String::new(),
        tightens: None,
        stages,
        triggers,
        soak: soak.as_ref().map_or(Duration::ZERO, span),
        canary_pods: written.canary.and_then(|canary| canary.min_replicas).unwrap_or(1),
        interval: measured.interval.as_ref().map_or(api::DEFAULT_INTERVAL, span),
        source: measured.source_ref.map_or_else(|| "default".to_owned(), |source| source.name),
    };
    if let Some(mend) = by_pods.then(|| by_pods::unfit(&plan)).flatten() {
        return Err(PlanError::ByPods(place, mend));
    }
    let hash = hash(&written_stages, &written_triggers, &defaults, written.soak.map(|_| plan.soak), &plan);
    Ok(Plan { hash, ..plan })
}

/// Hash of a plan: of what is written or built in, with the definitions of the metrics that it names, as JSON with sorted
/// keys. Field by field, so that a new version of Sluice renames no plan; what came later is in it only where it is written.
fn hash(
    stages: &[api::Stage],
    triggers: &[api::Trigger],
    defaults: &api::StageDefaults,
    soak: Option<Duration>,
    plan: &Plan,
) -> String {
    use sha2::{Digest, Sha256};
    let gates = plan.stages.iter().flat_map(|stage| &stage.gates).filter_map(|gate| match &gate.check {
        GateCheck::Metric(question) => Some(&question.metric),
        GateCheck::Health(_) => None,
    });
    let triggered = plan.triggers.iter().filter_map(|trigger| match &trigger.check {
        TriggerCheck::Metric(question) => Some(&question.metric),
        TriggerCheck::Restarts(..) | TriggerCheck::Condition(_) => None,
    });
    let metrics: BTreeMap<&str, &MetricDefinition> =
        gates.chain(triggered).map(|metric| (metric.name.as_str(), metric)).collect();
    let mut written = serde_json::json!({
        "stages": stages, "triggers": triggers, "stageDefaults": defaults, "metrics": metrics,
        "intervalSeconds": plan.interval.as_secs_f64().to_string(), "source": plan.source,
    });
    if let Some(soak) = soak {
        written["soakSeconds"] = soak.as_secs_f64().to_string().into();
    }
    short_hex(&Sha256::digest(format!("sluice/plan/v1\n{written}").as_bytes()))
}

/// The metrics an agent may name: the standard ones, overridden by its own.
pub fn definitions(metrics: &Metrics) -> BTreeMap<String, MetricDefinition> {
    api::standard_metrics()
        .into_iter()
        .chain(metrics.define.clone())
        .map(|metric| (metric.name.clone(), metric))
        .collect()
}

fn resolve_stage(
    place: &str,
    stage: &api::Stage,
    defaults: &api::StageDefaults,
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Stage, PlanError> {
    let deadline = stage.deadline.as_ref().or(defaults.deadline.as_ref());
    let place = format!("{place}.stages[{}]", stage.name);
    let gates = stage.gates.iter().map(|gate| resolve_gate(&place, gate, metrics));
    Ok(Stage {
        name: stage.name.clone(),
        weight: stage.traffic.clamp(0, 100),
        only: stage.only.clone(),
        min_duration: stage.min_duration.as_ref().map_or(Duration::ZERO, span),
        deadline: deadline.map_or(api::DEFAULT_DEADLINE, |deadline| span(&deadline.after)),
        then: deadline.map_or(DeadlineOutcome::Rollback, |deadline| deadline.then),
        gates: gates.collect::<Result<_, _>>()?,
    })
}

fn resolve_gate(
    place: &str,
    gate: &api::Gate,
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Gate, PlanError> {
    let place = format!("{place}.gates[{}]", gate.name);
    let check = match (&gate.metric, &gate.health) {
        (Some(metric), None) => GateCheck::Metric(Box::new(question(
            &place,
            &metric.name,
            (metric.window, metric.min_samples),
            [
                metric.value.as_ref().map(Written::from),
                metric.ratio_to_stable.as_ref().map(Written::from),
                metric.difference_from_stable.as_ref().map(Written::from),
            ],
            metrics,
        )?)),
        (None, Some(health)) => GateCheck::Health(health.lasting.as_ref().map_or(Duration::ZERO, span)),
        _ => return Err(PlanError::NotOne(place)),
    };
    Ok(Gate { name: gate.name.clone(), check, on_fail: gate.on_fail })
}

fn resolve_trigger(
    place: &str,
    trigger: &api::Trigger,
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Trigger, PlanError> {
    let place = format!("{place}.triggers[{}]", trigger.name);
    let check = match (&trigger.metric, &trigger.health) {
        (Some(metric), None) => TriggerCheck::Metric(Box::new(question(
            &place,
            &metric.name,
            (metric.window, metric.min_samples),
            [
                metric.value.as_ref().map(Written::from),
                metric.ratio_to_stable.as_ref().map(Written::from),
                metric.difference_from_stable.as_ref().map(Written::from),
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
    bounds: [Option<Written>; 3],
    metrics: &BTreeMap<String, MetricDefinition>,
) -> Result<Question, PlanError> {
    let metric = metrics
        .get(name)
        .ok_or_else(|| PlanError::UnknownMetric { place: place.to_owned(), metric: name.to_owned() })?
        .clone();
    let kinds = [Compare::Value, Compare::RatioToStable, Compare::DifferenceFromStable];
    let mut given = kinds.into_iter().zip(bounds).filter_map(|(compare, bounds)| Some((compare, bounds?)));
    let (Some((compare, written)), None) = (given.next(), given.next()) else {
        return Err(PlanError::NotOne(format!("{place}.metric")));
    };
    let [low, high, floor] = &written.0;
    let limits = [(low, compare), (high, compare), (floor, Compare::Value)]; // a floor is in the metric's own unit
    for (amount, compare) in limits.into_iter().filter_map(|(amount, compare)| Some((amount.as_ref()?, compare))) {
        if let Some(mend) = wrong_unit(&metric, compare, amount) {
            let (place, amount) = (place.to_owned(), amount.to_string());
            return Err(PlanError::Unit { place, metric: name.to_owned(), amount, mend });
        }
    }
    let [low, high, floor] = written.0.map(|amount| amount.as_ref().map(Amount::value));
    let bounds = Bounds { low, high, floor };
    let window = (!metric.is_instant()).then(|| window.map_or(api::DEFAULT_WINDOW, |span| span.0));
    Ok(Question { metric, window, min_samples: min_samples.unwrap_or(api::DEFAULT_MIN_SAMPLES), compare, bounds })
}

/// What cannot be meant by a bound: 5 for an error rate is 500 %, and 1200 for a latency is 20 minutes.
fn wrong_unit(metric: &MetricDefinition, compare: Compare, amount: &Amount) -> Option<&'static str> {
    let (unit, value) = (amount.unit(), amount.value());
    let small = value.abs() <= Decimal::ONE;
    if compare == Compare::RatioToStable {
        let factor = unit == Unit::Share || unit == Unit::Plain && value.abs() <= Decimal::TEN;
        return (!factor).then_some("write a multiple of stable's value, such as 120%");
    }
    if metric.ratio.is_some() {
        let share = unit == Unit::Share || unit == Unit::Plain && small;
        return (!share).then_some("it is a share of events: write a percentage, such as 99%");
    }
    let series = [
        metric.quantile.as_ref().map(|quantile| &quantile.histogram),
        metric.gauge.as_ref().map(|gauge| &gauge.series),
    ];
    let seconds =
        series.iter().flatten().any(|series| series.0.split('{').next().is_some_and(|n| n.ends_with("_seconds")));
    if seconds {
        let time = unit == Unit::Time || value.is_zero();
        return (!time).then_some("it is a time: write its unit, such as 1200ms or 15m");
    }
    let number = unit == Unit::Plain || metric.count.is_none() && unit == Unit::Time;
    (!number).then_some("it is a number: write it without a unit")
}

/// Bounds as they are written: low, high, floor.
struct Written([Option<Amount>; 3]);

impl From<&GateBounds> for Written {
    fn from(bounds: &GateBounds) -> Self {
        Self([bounds.at_least.clone(), bounds.at_most.clone(), None])
    }
}

impl From<&GateRatioBounds> for Written {
    fn from(bounds: &GateRatioBounds) -> Self {
        Self([bounds.at_least.clone(), bounds.at_most.clone(), bounds.floor.clone()])
    }
}

impl From<&TriggerBounds> for Written {
    fn from(bounds: &TriggerBounds) -> Self {
        Self([bounds.below.clone(), bounds.above.clone(), None])
    }
}

impl From<&TriggerRatioBounds> for Written {
    fn from(bounds: &TriggerRatioBounds) -> Self {
        Self([bounds.below.clone(), bounds.above.clone(), bounds.floor.clone()])
    }
}

/// The built-in plan alone, for an agent whose own plan cannot be understood.
pub fn basic(spec: &AgentDeploymentSpec) -> Plan {
    let plain = AgentDeploymentSpec { launch: None, metrics: None, ..spec.clone() };
    resolve(&plain).unwrap_or_else(|_| Plan {
        hash: String::new(), // cannot be: a test resolves the built-in plans
        tightens: None,
        stages: Vec::new(),
        triggers: Vec::new(),
        soak: Duration::ZERO,
        canary_pods: 1,
        interval: api::DEFAULT_INTERVAL,
        source: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(more: &str) -> AgentDeploymentSpec {
        let template = r#""template": {"spec": {"containers": [{"name": "agent", "image": "a", "ports": [{"containerPort": 1}]}]}}"#;
        serde_json::from_str(&format!("{{{template}{more}}}")).unwrap()
    }

    const GATEWAY: &str = r#", "traffic": {"gateway": {"parentRefs": [{"name": "public"}]}}"#;

    #[test]
    fn the_built_in_plans_resolve_and_their_hashes_do_not_move() {
        let (without, with) = (resolve(&spec("")).unwrap(), resolve(&spec(GATEWAY)).unwrap());
        let weights = |plan: &Plan| plan.stages.iter().map(|stage| stage.weight).collect::<Vec<_>>();
        assert_eq!((weights(&without), weights(&with)), (vec![0], vec![5, 25, 50, 100]));
        assert_eq!((without.hash.as_str(), with.hash.as_str()), ("f66c534b43", "f43ea514c2"));
        assert_eq!(basic(&spec(r#", "launch": {"stages": []}"#)), without);
    }

    #[test]
    fn the_built_in_plan_soaks_and_a_written_one_where_it_says_so() {
        let soak = |launch: &str| resolve(&spec(&format!(r#", "launch": {{{launch}}}"#))).unwrap();
        let stages = r#""stages": [{"name": "a", "traffic": 0}]"#;
        assert_eq!(resolve(&spec("")).unwrap().soak, Duration::from_mins(10));
        assert_eq!(soak(r#""soak": "0s""#).soak, Duration::ZERO);
        assert_eq!(soak(stages).soak, Duration::ZERO);
        assert_eq!(soak(&format!(r#"{stages}, "soak": "1h""#)).soak, Duration::from_hours(1));
        let hashes = ["", r#", "soak": "1h""#, r#", "soak": "2h""#].map(|more| soak(&format!("{stages}{more}")).hash);
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2], "a written soak is part of the plan: {hashes:?}");
        let sized = soak(&format!(r#"{stages}, "canary": {{"minReplicas": 2}}"#));
        assert_eq!((sized.canary_pods, &sized.hash), (2, &hashes[0]), "a size restarts no stage");
    }

    #[test]
    fn the_hash_follows_the_definition_of_a_metric_that_the_plan_names_and_no_other() {
        let launch = r#", "launch": {"stages": [{"name": "a", "traffic": 0, "gates":
            [{"name": "g", "metric": {"name": "mine", "value": {"atMost": 1}}}]}]}"#;
        let with = |series: &str, other: &str| {
            let define = format!(
                r#", "metrics": {{"define": [{{"name": "mine", "gauge": {{"series": "{series}"}}}}, {{"name": "other", "gauge": {{"series": "{other}"}}}}]}}"#
            );
            resolve(&spec(&format!("{launch}{define}"))).unwrap().hash
        };
        assert_eq!(with("a", "x"), with("a", "y"));
        assert_ne!(with("a", "x"), with("b", "x"));
    }

    #[test]
    fn a_bound_whose_unit_cannot_be_meant_is_refused_with_the_mend() {
        let gate = |metric: &str, bounds: &str| {
            let check = format!(r#"{{"name": "g", "metric": {{"name": "{metric}", {bounds}}}}}"#);
            let stages = format!(r#", "launch": {{"stages": [{{"name": "a", "traffic": 0, "gates": [{check}]}}]}}"#);
            resolve(&spec(&stages)).err().map(|error| error.to_string())
        };
        for (metric, bounds, mend) in [
            ("error_rate", r#""value": {"atMost": 5}"#, "5 cannot be a bound of error_rate: it is a share of events"),
            ("success_rate", r#""value": {"atLeast": 99}"#, "write a percentage, such as 99%"),
            ("success_rate", r#""differenceFromStable": {"atLeast": "-10s"}"#, "write a percentage"),
            ("latency_p95", r#""value": {"atMost": 1200}"#, "it is a time: write its unit, such as 1200ms"),
            ("latency_p95", r#""value": {"atMost": "99%"}"#, "it is a time"),
            ("latency_p95", r#""ratioToStable": {"atMost": 120}"#, "a multiple of stable's value, such as 120%"),
            ("latency_p95", r#""ratioToStable": {"atMost": "120%", "floor": "5%"}"#, "it is a time"),
            ("policy_bypasses", r#""value": {"atMost": "1%"}"#, "it is a number"),
        ] {
            let error = gate(metric, bounds).unwrap_or_default();
            assert!(error.contains(mend), "{metric} {bounds}: {error}");
        }
        for (metric, bounds) in [
            ("success_rate", r#""value": {"atLeast": "99%"}"#),
            ("error_rate", r#""value": {"atMost": 0}"#),
            ("error_rate", r#""value": {"atMost": "0.05"}"#),
            ("latency_p95", r#""value": {"atMost": "1200ms"}"#),
            ("latency_p95", r#""ratioToStable": {"atMost": "1.2", "floor": "100ms"}"#),
            ("policy_bypasses", r#""value": {"atMost": 0}"#),
            ("cost_per_success", r#""value": {"atMost": "0.50"}"#),
        ] {
            assert_eq!(gate(metric, bounds), None, "{metric} {bounds}");
        }
    }

    #[test]
    fn a_plan_that_cannot_be_understood_names_the_place_and_the_mend() {
        let gate = |check: &str| {
            let launch = format!(
                r#", "launch": {{"stages": [{{"name": "a", "traffic": 0, "gates": [{{"name": "g"{check}}}]}}]}}"#
            );
            resolve(&spec(&launch)).unwrap_err().to_string()
        };
        assert_eq!(gate(""), "spec.launch.stages[a].gates[g] must have exactly one of its kinds: keep one");
        assert!(gate(r#", "metric": {"name": "success_rate"}"#).contains("gates[g].metric must have exactly one"));
        let unknown = gate(r#", "metric": {"name": "sucess_rate", "value": {"atLeast": "99%"}}"#);
        assert!(unknown.ends_with("correct the name or define it"), "{unknown}");
    }
}
