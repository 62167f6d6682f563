//! One attempt at a notification: its user's devices, a claim for each, the providers.

use super::{
    Answer, Breakers, ChannelMetrics, Channels, Message, Provider, REFUSED,
    breaker::Breaker,
    gone::Gone,
    out::Out,
    parcel::Parcel,
    settle::{Reached, Settled, end, settle, unshown},
};
use crate::{
    dispatcher::{
        Rules,
        devices::Device,
        patience::{Patience, Seldom, Stopped},
        quota::{Quotas, Throttle, Waits},
        spending::{Bill, OVER_BUDGET, OverBudget, Spending},
        store::SharedStore,
        suppression::normal,
        templates::{Shown, Subject},
        unix_ms,
    },
    envelope::{Channel, Priority, is_expired},
    ids::{DeviceId, UserId},
    limits,
    registry::{SendClaim, SendKey, SharedRegistry},
};
use futures::future::join_all;
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout, timeout_at},
};
use uuid::Uuid;

pub struct Sender {
    pub channel: Channel,
    pub providers: Vec<Places>,
    pub store: SharedStore,
    pub registry: SharedRegistry,
    pub patience: Patience,
    pub rules: Rules,
    pub breakers: Breakers,
    pub spending: Spending,
    pub metrics: ChannelMetrics,
    /// Of the reader: whether what waits here keeps others from being read.
    pub out: Out,
}

/// A provider, its sends at once and those a second.
pub struct Places {
    provider: Arc<dyn Provider>,
    free: Semaphore,
    throttle: Throttle,
    /// Messages that wait for the rate, or for a place.
    waiting: AtomicU32,
    gone: Gone,
    refused: Seldom,
}

impl Places {
    /// Of the channel's providers.
    pub fn of(
        channel: Channel,
        channels: &Channels,
        quotas: &Quotas,
        store: &SharedStore,
        metrics: &ChannelMetrics,
    ) -> Vec<Places> {
        let places = |provider: &Arc<dyn Provider>| Places {
            provider: provider.clone(),
            free: Semaphore::new(provider.pace().at_once),
            throttle: Throttle::new(quotas.clone(), provider.name(), provider.pace().per_s),
            waiting: AtomicU32::new(0),
            gone: Gone::new(provider.as_ref(), store.clone(), metrics.clone()),
            refused: Seldom::default(),
        };
        channels.of(channel).map(places).collect()
    }

    /// Notifications that a channel may have at work with these.
    pub fn out_max(of_channel: &[Places]) -> usize {
        let at_once = of_channel.iter().map(|one| one.provider.pace().at_once);
        limits::CHANNEL_WAITING + at_once.sum::<usize>()
    }

    /// Nothing mends that but an operator.
    fn say_if_refused(&self, answer: &Answer) {
        if let Answer::Transient { class, reason, .. } = answer
            && *class == REFUSED
            && self.refused.is_due()
        {
            let provider = self.provider.name();
            tracing::warn!(
                provider,
                ?reason,
                "it refuses us, whoever the message is for: see its key or account in the configuration"
            );
        }
    }
}

/// How long a notification waits for a provider.
#[derive(Clone, Copy)]
struct Until {
    /// That has all its sends at work.
    place: Instant,
    /// Whose rate is used up.
    rate: Instant,
}

/// Until the first of some providers is probed.
#[derive(Default)]
struct LeftAlone(Option<Duration>);

impl LeftAlone {
    fn add(&mut self, wait: Duration) {
        let shortest = self.0.map_or(wait, |shortest| shortest.min(wait));
        self.0 = Some(shortest);
    }

    fn reached(self) -> Reached {
        Reached::Elsewhere {
            class: "breaker_open",
            wait: self.0.unwrap_or_default(),
        }
    }
}

impl Sender {
    /// Returns once every device was tried.
    pub async fn send(&self, parcel: &Parcel) -> Result<Settled, Stopped> {
        let (at_ms, tried) = (unix_ms(), &parcel.tried);
        if is_expired(parcel.head.expires_ms, at_ms) {
            // Before the first attempt nobody has to look: it came too late.
            let cause = (tried.attempts > 0).then_some("expired");
            return Ok(end(tried, "expired", cause));
        }
        let (sent_to, set_aside): (Vec<_>, Vec<_>) = self
            .devices(parcel)
            .await?
            .into_iter()
            .partition(|(device, _)| device.quarantined_ms.is_none());
        let devices = match (sent_to.is_empty(), set_aside.is_empty()) {
            (true, true) => return Ok(end(tried, "no_address", None)),
            // Its provider wants no more of it, and who goes on is not listened to for long.
            (true, false) => return Ok(end(tried, "quarantined", None)),
            (false, _) => sent_to,
        };
        let subject = Subject {
            head: &parcel.head,
            user: Some(&parcel.user),
            content: &parcel.content,
        };
        let locale = parcel.locale.as_deref();
        let shown = match self.rules.templates.show(&subject, self.channel, locale) {
            Ok(shown) => shown,
            Err(error) => return Ok(unshown(tried, &error)),
        };
        let shown = &shown;
        let suppressed = self.suppressed(&devices).await?;
        let until = Until {
            place: Instant::now() + limits::CHANNEL_TURN_MAX,
            rate: Instant::now() + limits::PROVIDER_WAIT,
        };
        let each = devices.iter().zip(suppressed);
        let sends = each.map(|((device, providers), is_suppressed)| async move {
            let reached = match is_suppressed {
                true => Reached::Suppressed,
                false => self.reach(parcel, shown, device, providers, until).await,
            };
            (device.id.clone(), reached)
        });
        let reached: Vec<(DeviceId, Reached)> = join_all(sends).await;
        Ok(settle(&parcel.head, tried, reached, at_ms, unix_ms()))
    }

    /// Those that a provider of this channel serves and that are left to be tried, with all who serve them.
    async fn devices(&self, parcel: &Parcel) -> Result<Vec<(Device, Vec<&Places>)>, Stopped> {
        let devices = self
            .patience
            .until_done("devices", || self.store.devices(&parcel.user))
            .await?;
        let is_open = |device: &Device| {
            let open = parcel.tried.open.as_ref();
            open.is_none_or(|open| open.contains(&device.id))
        };
        let served = devices.into_iter().filter(is_open).filter_map(|device| {
            let serves = |places: &&Places| places.provider.kind() == device.kind;
            let providers: Vec<&Places> = self.providers.iter().filter(serves).collect();
            (!providers.is_empty()).then_some((device, providers))
        });
        Ok(served.collect())
    }

    /// Of each, whether nobody writes to it any more.
    async fn suppressed(&self, devices: &[(Device, Vec<&Places>)]) -> Result<Vec<bool>, Stopped> {
        if self.channel != Channel::Email {
            return Ok(vec![false; devices.len()]);
        }
        let addresses = devices.iter().map(|(device, _)| normal(&device.address));
        let addresses: Vec<String> = addresses.collect();
        let found = self
            .patience
            .until_done("suppressions", || self.store.suppressed(&addresses))
            .await?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// By the first of its providers that is not left alone.
    async fn reach(
        &self,
        parcel: &Parcel,
        shown: &Shown<'_>,
        device: &Device,
        providers: &[&Places],
        until: Until,
    ) -> Reached {
        let mut left_alone = LeftAlone::default();
        for (at, places) in providers.iter().enumerate() {
            if let Some(wait) = self.breaker(places, device).is_open(Instant::now()) {
                left_alone.add(wait);
                continue;
            }
            let place = match self.turn(parcel.head.priority, places, until).await {
                Ok(place) => place,
                Err(wait) => return Reached::Elsewhere { class: "", wait },
            };
            let message = Message {
                head: &parcel.head,
                content: &shown.content,
                html: shown.html.as_deref(),
                is_optional: !self.is_mandatory(parcel),
                device,
            };
            return self
                .send_once(&parcel.user, &message, &providers[at..], place)
                .await;
        }
        left_alone.reached()
    }

    fn breaker(&self, places: &Places, device: &Device) -> Arc<Breaker> {
        let provider = &places.provider;
        self.breakers.of(provider.name(), provider.host(device))
    }

    /// A place at the provider, once its rate allows it. Else how long that won't be: it was not in time, others are to be
    /// read first, or this process leaves.
    async fn turn<'a>(
        &self,
        priority: Priority,
        places: &'a Places,
        until: Until,
    ) -> Result<SemaphorePermit<'a>, Duration> {
        let _waits = Waits::new(&places.waiting);
        let turn = async {
            // Before its place: what does not wait for the rate is not to wait for what does.
            places.throttle.pass(priority, until.rate).await?;
            let place = timeout_at(until.place, places.free.acquire()).await;
            place
                .map(|place| place.expect("never closed"))
                .map_err(|_| Duration::ZERO)
        };
        tokio::select! {
            biased;
            () = self.patience.leaving() => Err(Duration::ZERO),
            turn = turn => turn,
            () = self.is_in_the_way(priority, places) => Err(Duration::ZERO),
        }
    }

    /// Ends when one that waits at this provider keeps those of others from being read: it has waited for a while, nothing
    /// more is read for want of room, and more than its share of that wait here. Where all goes by providers of one kind
    /// it may wait for its place: nobody else would get it.
    async fn is_in_the_way(&self, priority: Priority, places: &Places) {
        let kind = places.provider.kind();
        let mut others = self.providers.iter();
        if others.all(|other| other.provider.kind() == kind) {
            return pending().await;
        }
        sleep(match priority {
            // Behind all that is in the topic it would come late: only a provider that stands has it wait so long.
            Priority::Critical => limits::PROVIDER_WAIT,
            _ => limits::CHANNEL_TURN,
        })
        .await;
        let share = limits::CHANNEL_WAITING / self.providers.len();
        let waiting = || places.waiting.load(Ordering::Relaxed) as usize;
        self.out.crowded(|| waiting() > share).await;
    }

    /// With a claim, and paid. `place` is one of the first provider.
    async fn send_once(
        &self,
        user: &UserId,
        message: &Message<'_>,
        providers: &[&Places],
        place: SemaphorePermit<'_>,
    ) -> Reached {
        let send = SendKey {
            channel: self.channel,
            id: message.head.id,
            user: user.clone(),
            device: message.device.id.clone(),
        };
        let owner = Uuid::now_v7().to_string();
        let timeouts = providers
            .iter()
            .map(|places| places.provider.pace().timeout);
        let lease = timeouts.sum::<Duration>() * 2;
        match self.claim(&send, &owner, lease).await {
            Some(SendClaim::Done) => return Reached::SentBefore,
            Some(SendClaim::Pending { wait_ms }) => {
                return Reached::Elsewhere {
                    class: "",
                    wait: Duration::from_millis(wait_ms),
                };
            }
            Some(SendClaim::Ours) | None => {}
        }
        let answer = self.ask_paid(message, providers, place).await;
        let ended = match &answer {
            Ok((Answer::Sent { .. }, _)) => self.registry.finish_send(&send).await,
            _ => self.registry.release_send(&send, &owner).await,
        };
        if let Err(error) = ended {
            // The commit says it too, and the lease ends by itself.
            tracing::debug!(%error, id = %send.id, "a claim was not ended");
        }
        match answer {
            Err(not_asked) => not_asked,
            Ok((Answer::Sent { provider_id }, places)) => {
                places.gone.taken(message.device).await;
                Reached::Sent { provider_id }
            }
            Ok((
                Answer::Transient {
                    class,
                    reason,
                    retry_after,
                },
                _,
            )) => Reached::Later {
                class,
                reason,
                after: retry_after,
            },
            Ok((Answer::Permanent { class, reason }, _)) => Reached::Never { class, reason },
            Ok((Answer::Gone, places)) => {
                places.gone.gone(message.device).await;
                Reached::Gone
            }
        }
    }

    /// Asks once it is paid for. What nobody took costs nothing.
    async fn ask_paid<'a>(
        &self,
        message: &Message<'_>,
        providers: &[&'a Places],
        place: SemaphorePermit<'_>,
    ) -> Result<(Answer, &'a Places), Reached> {
        let mut bill = Some(self.pay(message, providers[0]).await?);
        let asked = self.ask_in_turn(message, providers, place, &mut bill);
        let answer = asked.await.map_err(LeftAlone::reached);
        if let Some(bill) = bill {
            self.spending.give_back(self.channel, bill).await;
        }
        answer
    }

    async fn pay(&self, message: &Message<'_>, places: &Places) -> Result<Bill, Reached> {
        let units = places.provider.units(message.content);
        let (priority, of_type) = (message.head.priority, &message.content.notification_type);
        let paid = self.spending.pay(message.device, units, priority, of_type);
        paid.await.map_err(|over| match over {
            OverBudget::Until(wait) => Reached::Elsewhere {
                class: OVER_BUDGET,
                wait,
            },
            OverBudget::Refused => Reached::Never {
                class: OVER_BUDGET,
                reason: "the day's budget is spent".into(),
            },
        })
    }

    /// Asks one provider after the other, until one answers that does not fail. The last answer counts, and whose it is.
    /// Each that may have taken it keeps its price; what is left of `bill` was for nothing.
    async fn ask_in_turn<'a>(
        &self,
        message: &Message<'_>,
        providers: &[&'a Places],
        place: SemaphorePermit<'_>,
        bill: &mut Option<Bill>,
    ) -> Result<(Answer, &'a Places), LeftAlone> {
        let (mut place, mut left_alone) = (Some(place), LeftAlone::default());
        let mut last = None;
        for places in providers {
            // Who has been claimed waits for nobody.
            let Some(_place) = place.take().or_else(|| places.free.try_acquire().ok()) else {
                continue;
            };
            if bill.is_none() {
                match self.pay(message, places).await {
                    Ok(paid) => *bill = Some(paid),
                    Err(_) => break,
                }
            }
            let breaker = self.breaker(places, message.device);
            let permit = match breaker.ask(Instant::now()) {
                Ok(permit) => permit,
                Err(wait) => {
                    left_alone.add(wait);
                    continue;
                }
            };
            let provider = places.provider.as_ref();
            let answer = self.ask(provider, message).await;
            places.say_if_refused(&answer);
            let failed = match &answer {
                Answer::Transient { class, .. } => provider.is_ill(class),
                _ => false,
            };
            breaker.tell(permit, failed, Instant::now());
            let may_be_taken = match &answer {
                Answer::Sent { .. } => true,
                // What came too late to be known may have been.
                Answer::Transient { class, .. } => *class == "timeout",
                Answer::Permanent { .. } | Answer::Gone => false,
            };
            bill.take_if(|_| may_be_taken);
            last = Some((answer, *places));
            if !failed {
                break;
            }
        }
        last.ok_or(left_alone)
    }

    fn is_mandatory(&self, parcel: &Parcel) -> bool {
        let of_type = &parcel.content.notification_type;
        self.rules.mandatory.is(parcel.head.priority, of_type)
    }

    async fn ask(&self, provider: &dyn Provider, message: &Message<'_>) -> Answer {
        let began = Instant::now();
        let within = provider.pace().timeout;
        let names = [self.channel.as_str(), provider.name()];
        let open = self.metrics.open.with_label_values(&names);
        open.inc();
        let answered = timeout(within, provider.send(message)).await;
        open.dec();
        let result = match &answered {
            Ok(Answer::Sent { .. }) => "sent",
            Ok(Answer::Transient { .. }) => "transient",
            Ok(Answer::Permanent { .. }) => "permanent",
            Ok(Answer::Gone) => "gone",
            Err(_) => "timeout",
        };
        let (channel, priority) = (self.channel.as_str(), message.head.priority.as_str());
        let labels = [channel, provider.name(), priority, result];
        self.metrics.sends.with_label_values(&labels).inc();
        let send_s = &self.metrics.send_s;
        send_s
            .with_label_values(&labels[..2])
            .observe(began.elapsed().as_secs_f64());
        if result == "sent" {
            let age_ms = unix_ms().saturating_sub(message.head.created_ms);
            let delivered_s = &self.metrics.delivered_s;
            delivered_s
                .with_label_values(&[channel, priority])
                .observe(age_ms as f64 / 1000.0);
            if self.channel == Channel::Sms {
                let units = provider.units(message.content);
                let segments = &self.metrics.segments;
                segments
                    .with_label_values(&labels[1..2])
                    .inc_by(units.into());
            }
        }
        answered.unwrap_or_else(|_| Answer::Transient {
            class: "timeout",
            reason: format!("no answer in {} ms", within.as_millis()),
            retry_after: None,
        })
    }

    /// `None` with the registry away: at worst it is sent twice, else not at all.
    async fn claim(&self, send: &SendKey, owner: &str, lease: Duration) -> Option<SendClaim> {
        let mut claim = None;
        for attempt in 1..=limits::LOOKUP_ATTEMPTS {
            match self.registry.claim_send(send, owner, lease).await {
                Ok(answer) => {
                    claim = Some(answer);
                    break;
                }
                Err(_) if attempt == limits::LOOKUP_ATTEMPTS || !self.registry.healthy() => break,
                Err(_) => tokio::time::sleep(limits::LOOKUP_PAUSE).await,
            }
        }
        let result = match claim {
            Some(SendClaim::Ours) => "ours",
            Some(SendClaim::Done) => "done",
            Some(SendClaim::Pending { .. }) => "pending",
            None => "without",
        };
        let counter = &self.metrics.claims;
        counter
            .with_label_values(&[self.channel.as_str(), result])
            .inc();
        claim
    }
}
