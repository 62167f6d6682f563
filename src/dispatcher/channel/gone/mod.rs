//! What becomes of devices that their provider calls gone: deleted within a usual rate, else put in quarantine.
//!
//! Each dispatcher judges by the answers that it got itself. They are a fair sample of all, for users are spread over
//! dispatchers; and what is wrong with one dispatcher alone (its configuration) is plain there, and would be lost in the
//! sum of all. So nothing is shared, and without Redis it is the same.

mod band;

use super::{ChannelMetrics, Provider};
use crate::dispatcher::{devices::Device, store::SharedStore, unix_ms};
use band::{Band, Doubt};
use futures::future::join_all;
use parking_lot::Mutex;

pub use band::Usual;

/// Of one provider.
pub struct Gone {
    provider: String,
    /// None: what it says is believed.
    band: Option<Mutex<Band>>,
    suspects: &'static str,
    store: SharedStore,
    metrics: ChannelMetrics,
}

impl Gone {
    pub fn new(provider: &dyn Provider, store: SharedStore, metrics: ChannelMetrics) -> Gone {
        let (name, usual) = (provider.name(), provider.usual());
        if usual.is_some() {
            // There before the first of their kind: a rate does not see a series that begins at one.
            for result in ["forgotten", "quarantined"] {
                metrics.gone.with_label_values(&[name, result]);
            }
            metrics.gone_unusual.with_label_values(&[name]).set(0);
        }
        Gone {
            provider: name.to_owned(),
            band: usual.map(|usual| Mutex::new(Band::new(usual))),
            suspects: usual.map_or("", |usual| usual.suspects),
            store,
            metrics,
        }
    }

    /// The provider took a message for it.
    pub async fn taken(&self, device: &Device) {
        let Some(band) = &self.band else { return };
        let taken = band.lock().taken(device);
        if taken.is_back {
            self.is_unusual(false);
            tracing::warn!(
                provider = self.provider,
                "devices are called gone as seldom as usual again; those in quarantine stay there: see `herald ctl \
                 quarantine`"
            );
        }
        for device in &taken.forgotten {
            self.forget(device).await;
        }
    }

    pub async fn gone(&self, device: &Device) {
        let Some(band) = &self.band else {
            return self.forget(device).await;
        };
        let (doubt, seen) = {
            let mut band = band.lock();
            (band.gone(device), band.seen())
        };
        match doubt {
            Doubt::Held => {}
            Doubt::Left => self.quarantine(device).await,
            Doubt::Leaves(held) => {
                self.is_unusual(true);
                let (provider, (gone, answers)) = (&self.provider, seen);
                tracing::error!(
                    provider,
                    gone,
                    answers,
                    "more devices are called gone than is usual: none is deleted, they are put in quarantine. {} Then \
                     `herald ctl quarantine restore --kind {provider}`, or `confirm` if they are gone indeed",
                    self.suspects
                );
                join_all(held.iter().map(|device| self.quarantine(device))).await;
            }
        }
    }

    fn is_unusual(&self, is_so: bool) {
        let gauge = &self.metrics.gone_unusual;
        gauge
            .with_label_values(&[&self.provider])
            .set(i64::from(is_so));
    }

    /// Unless it was entered anew meanwhile. What could not be forgotten is met again.
    async fn forget(&self, device: &Device) {
        let removed = self.store.remove_gone(device).await;
        match removed {
            Ok(true) => {
                self.count("forgotten");
                tracing::info!(
                    user = %device.user,
                    device = %device.id,
                    kind = device.kind.as_str(),
                    "a device is no more and was forgotten"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a device that is no more was not forgotten"),
        }
    }

    /// As [`Gone::forget`].
    async fn quarantine(&self, device: &Device) {
        match self.store.quarantine(device, unix_ms()).await {
            Ok(true) => self.count("quarantined"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a device was not put in quarantine"),
        }
    }

    fn count(&self, result: &str) {
        let counter = &self.metrics.gone;
        counter.with_label_values(&[&self.provider, result]).inc();
    }
}
