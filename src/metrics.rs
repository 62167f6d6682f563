//! Metrics: every family is made here-style, with help, under the `herald_` prefix and with bounded labels.
//!
//! Each part keeps a struct of its own metrics, made from the process's registry; nothing is global, so
//! that the standalone and the tests may run several parts in one process.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Buckets in seconds for times inside the gateway and between processes.
pub const LATENCY_BUCKETS_S: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0,
    5.0, 10.0, 30.0,
];

/// Makes and registers families. A name registered twice is a defect of ours: it panics at start.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            registry: Registry::new_custom(Some("herald".into()), None).expect("a valid prefix"),
        }
    }
}

impl Metrics {
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help).expect("a valid metric"))
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric"))
    }

    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help).expect("a valid metric"))
    }

    /// Of what is no whole number: a share from 0 to 1, seconds.
    pub fn fraction(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help).expect("a valid metric"))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric"))
    }

    /// A gauge that is computed when it is read.
    pub fn computed(
        &self,
        name: &str,
        help: &str,
        value: impl Fn() -> i64 + Send + Sync + 'static,
    ) {
        let gauge = IntGauge::new(name, help).expect("a valid metric");
        let computed = Computed {
            gauge,
            value: Box::new(value),
        };
        self.registry
            .register(Box::new(computed))
            .expect("a metric name is used once");
    }

    /// As [`Metrics::computed`], one value for each number of a label, from 0.
    pub fn computed_each(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn() -> Vec<f64> + Send + Sync + 'static,
    ) {
        let number = |(number, value): (usize, f64)| (number.to_string(), value);
        let values = move || values().into_iter().enumerate().map(number).collect();
        self.add_computed_by(name, help, label, Box::new(values));
    }

    /// As [`Metrics::computed`], one value for each name of a label.
    pub fn computed_by(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn() -> Vec<(&'static str, f64)> + Send + Sync + 'static,
    ) {
        let values = move || {
            values()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        self.add_computed_by(name, help, label, Box::new(values));
    }

    /// In seconds, over [`LATENCY_BUCKETS_S`].
    pub fn latency(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS_S.to_vec());
        self.add(Histogram::with_opts(options).expect("a valid metric"))
    }

    /// As [`Metrics::latency`], by label.
    pub fn latencies(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS_S.to_vec());
        self.add(HistogramVec::new(options, labels).expect("a valid metric"))
    }

    /// Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("memory takes it");
        String::from_utf8(text).expect("the format is text")
    }

    fn add_computed_by(&self, name: &str, help: &str, label: &str, values: Labelled) {
        let gauges = GaugeVec::new(Opts::new(name, help), &[label]).expect("a valid metric");
        self.registry
            .register(Box::new(ComputedBy { gauges, values }))
            .expect("a metric name is used once");
    }

    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        let registered = self.registry.register(Box::new(collector.clone()));
        registered.unwrap_or_else(|error| {
            let names: Vec<_> = collector.desc().iter().map(|desc| &desc.fq_name).collect();
            panic!("{names:?}: {error}")
        });
        collector
    }
}

struct Computed {
    gauge: IntGauge,
    value: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl Collector for Computed {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set((self.value)());
        self.gauge.collect()
    }
}

/// Values by label.
type Labelled = Box<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

struct ComputedBy {
    gauges: GaugeVec,
    values: Labelled,
}

impl Collector for ComputedBy {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (label, value) in (self.values)() {
            self.gauges.with_label_values(&[&label]).set(value);
        }
        self.gauges.collect()
    }
}
