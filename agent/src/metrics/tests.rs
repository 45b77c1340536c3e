use super::*;
use crate::decisions::Verdict;

#[test]
fn the_page_is_prometheus_text() {
    let metrics = Metrics::new();
    let listener = metrics.listener(8080);
    listener.opened();
    listener.speaks("h2");
    listener.decided(Verdict::Allow, "permitted");
    listener.decided(Verdict::Deny, "no_policy_matched");
    listener.answered(200);
    listener.answered(403);
    listener.took(Duration::from_micros(600));
    listener.traffic().count(Direction::In, 5);
    metrics.decided(Duration::from_nanos(1_000));
    metrics.service(&Name::parse("orders").unwrap()).answered(200);
    metrics.unknown_service().failed("unknown_service");
    metrics.workloads().opened();
    metrics.workloads().turned_away("too_many");
    metrics.workloads().told(WorkloadService::Sds, &Ok(()));
    metrics
        .workloads()
        .told::<()>(WorkloadService::WorkloadApi, &Err(tonic::Status::permission_denied("no")));
    let text = metrics.text();
    for line in [
        "# TYPE hauberk_inbound_requests_total counter",
        "hauberk_inbound_connections{listener=\"8080\"} 1",
        "hauberk_inbound_connections_total{listener=\"8080\",protocol=\"h2\"} 1",
        "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"allow\"} 1",
        "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"deny\"} 1",
        "hauberk_inbound_requests_total{listener=\"8080\",verdict=\"audit_allow\"} 0",
        "hauberk_inbound_denials_total{listener=\"8080\",reason=\"no_policy_matched\"} 1",
        "hauberk_inbound_responses_total{listener=\"8080\",class=\"4xx\"} 1",
        "hauberk_inbound_bytes_total{listener=\"8080\",direction=\"in\"} 5",
        "hauberk_inbound_request_seconds_bucket{listener=\"8080\",le=\"0.0005\"} 0",
        "hauberk_inbound_request_seconds_bucket{listener=\"8080\",le=\"0.001\"} 1",
        "hauberk_inbound_request_seconds_bucket{listener=\"8080\",le=\"+Inf\"} 1",
        "hauberk_inbound_request_seconds_sum{listener=\"8080\"} 0.0006",
        "hauberk_decision_seconds_bucket{le=\"0.000001\"} 1",
        "hauberk_decision_seconds_count 1",
        "hauberk_outbound_requests_total{service=\"orders\",result=\"2xx\"} 1",
        "hauberk_outbound_requests_total{service=\"(unknown)\",result=\"unknown_service\"} 1",
        "hauberk_outbound_connections 0",
        "hauberk_workload_connections 1",
        "hauberk_workload_connections_refused_total{reason=\"too_many\"} 1",
        "hauberk_workload_answers_total{service=\"sds\"} 1",
        "hauberk_workload_answers_total{service=\"workload-api\"} 0",
        "hauberk_workload_denials_total{reason=\"no_identity\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    // Every family is described once, before its samples, and no sample occurs twice.
    let mut seen = std::collections::HashSet::new();
    for line in text.lines() {
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line}");
    }
}

#[test]
fn the_same_listener_keeps_its_counters() {
    let metrics = Metrics::new();
    metrics.listener(1).decided(Verdict::Allow, "permitted");
    metrics.listener(1).decided(Verdict::Allow, "permitted");
    assert!(metrics.text().contains("{listener=\"1\",verdict=\"allow\"} 2\n"));
}

#[test]
fn more_names_than_places_are_counted_together() {
    let counters = by_name::ByName::<2>::beginning_with(&["a"]);
    for name in ["a", "b", "c", "b", "d"] {
        counters.add(name);
    }
    assert_eq!(counters.counted(), [("a", 1), ("b", 2), ("other", 2)]);
}

#[test]
fn names_find_one_place_from_many_threads() {
    let counters = by_name::ByName::<4>::beginning_with(&[]);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| (0..1_000).for_each(|n| counters.add(["a", "b", "c"][n % 3])));
        }
    });
    let mut counted = counters.counted();
    counted.sort_unstable();
    assert_eq!(counted, [("a", 1_336), ("b", 1_332), ("c", 1_332)]);
}

#[test]
fn times_fall_below_their_bounds() {
    let histogram = Histogram::new([1_000, 2_000]);
    for nanos in [0, 1_000, 1_001, 2_000, 2_001, u64::MAX / 2] {
        histogram.observe(Duration::from_nanos(nanos));
    }
    assert_eq!(histogram.buckets().map(|(_, count)| count).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(histogram.above(), 2);
}
