//! The schedules, and whether they ran.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::types::{Datapoint, Dimension, Statistic};

use super::call::{Fault, fault};
use super::deployment::Deployment;
use super::template::text;
use super::{Named, kebab, named, unless_any};

const DAY: Duration = Duration::from_hours(24);

/// Time that CloudWatch needs to show a metric.
pub(super) const LAG: Duration = Duration::from_mins(10);

pub(super) fn checks(deployment: &Deployment) -> Vec<Named<'_>> {
    let mut checks = Vec::new();
    for schedule in deployment.template.of_type("AWS::Scheduler::Schedule") {
        let name = kebab(schedule, "Schedule");
        let runbook = runbook(&name);
        checks.push(named(
            format!("schedule-{name}"),
            runbook,
            self::schedule(deployment, schedule),
        ));
    }
    checks.push(named(
        "schedules-ran",
        "operate/runbooks/breaker.md",
        ran(deployment),
    ));
    checks
}

fn runbook(name: &str) -> &'static str {
    match name {
        "breaker" => "operate/runbooks/breaker.md",
        "archive" => "operate/runbooks/archive-failing.md",
        "recovery" => "operate/runbooks/recovery-behind.md",
        "canary" => "operate/runbooks/canary.md",
        "statement" => "operate/runbooks/unaccounted.md",
        "journal" => "operate/runbooks/journal-failing.md",
        _ => "operate/runbooks/dead-letters.md",
    }
}

async fn schedule(deployment: &Deployment, schedule: &str) -> Result<String, Fault> {
    let name = deployment.template.physical(schedule).unwrap_or_default();
    // The id is the name, or group and name.
    let name = name.rsplit(['/', '|']).next().unwrap_or_default();
    let path = format!("/schedules/{name}");
    let found = deployment
        .signed
        .get("scheduler:GetSchedule", "scheduler", &path)
        .await?;
    let expected = deployment.template.properties(schedule);
    let mut problems = Vec::new();
    let state = text(&found["State"]);
    if state != "ENABLED" {
        problems.push(format!("it is {state}"));
    }
    let (wanted, given) = (
        &expected["ScheduleExpression"],
        &found["ScheduleExpression"],
    );
    if wanted != given {
        problems.push(format!(
            "it comes at {}, and the template says {}",
            text(given),
            text(wanted)
        ));
    }
    for field in ["Arn", "RoleArn", "Input"] {
        let (wanted, given) = (&expected["Target"][field], &found["Target"][field]);
        if wanted != given {
            problems.push(format!(
                "its {field} is {}, and the template says {}",
                text(given),
                text(wanted)
            ));
        }
    }
    unless_any(&problems, format!("{state}, {}", text(given)))
}

/// Invocations of each scheduled function in the last day, by Lambda's own metric. One that is not
/// due since its deploy is no failure.
async fn ran(deployment: &Deployment) -> Result<String, Fault> {
    let template = &deployment.template;
    let mut functions: BTreeMap<String, bool> = BTreeMap::new();
    for schedule in template.of_type("AWS::Scheduler::Schedule") {
        let wanted = template.properties(schedule);
        let arn = text(&wanted["Target"]["Arn"]);
        let name = arn.rsplit(':').next().unwrap_or_default().to_owned();
        let every = interval(&text(&wanted["ScheduleExpression"]));
        let is_due = deployment.age(schedule).is_none_or(|age| age > every + LAG);
        *functions.entry(name).or_default() |= is_due;
    }
    let (mut problems, mut said) = (Vec::new(), Vec::new());
    for (name, is_due) in functions {
        let dimension = Dimension::builder()
            .name("FunctionName")
            .value(&name)
            .build();
        let count = sum(deployment, "AWS/Lambda", "Invocations", Some(dimension)).await?;
        match count {
            Some(count) if count > 0.0 => said.push(format!("{name} {count} times")),
            _ if is_due => problems.push(format!("{name} was not invoked in the last day")),
            _ => said.push(format!("{name} is not due since its deploy")),
        }
    }
    unless_any(&problems, format!("in the last day: {}", said.join(", ")))
}

/// Time between two runs of a schedule; a day for one that names hours.
fn interval(expression: &str) -> Duration {
    let rate = expression.strip_prefix("rate(");
    let minutes = rate.and_then(|rate| rate.split(' ').next()?.parse().ok());
    minutes.map_or(DAY, Duration::from_mins)
}

/// Sum of a metric over the last day; `None` where CloudWatch has no value of it.
pub(super) async fn sum(
    deployment: &Deployment,
    namespace: &str,
    name: &str,
    dimension: Option<Dimension>,
) -> Result<Option<f64>, Fault> {
    let now = SystemTime::now();
    let answer = deployment
        .cloudwatch
        .get_metric_statistics()
        .namespace(namespace)
        .metric_name(name)
        .set_dimensions(dimension.map(|dimension| vec![dimension]))
        .start_time((now - DAY - LAG).into())
        .end_time(now.into())
        .period(3600)
        .statistics(Statistic::SampleCount)
        .statistics(Statistic::Sum)
        .send();
    let answer = answer
        .await
        .map_err(fault("cloudwatch:GetMetricStatistics"))?;
    let points = answer.datapoints();
    let sum = points.iter().filter_map(Datapoint::sum).sum();
    Ok((!points.is_empty()).then_some(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_is_read_from_rates_and_is_a_day_otherwise() {
        assert_eq!(interval("rate(1 minute)"), Duration::from_mins(1));
        assert_eq!(interval("rate(1440 minutes)"), DAY);
        assert_eq!(interval("cron(17 3,15 * * ? *)"), DAY);
    }
}
