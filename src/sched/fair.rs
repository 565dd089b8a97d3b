//! The order of what waits: fair between tenants, and within a tenant between invocations.
//!
//! Weighted fair queueing over the slot time or CPU time that was used: whoever will have used least comes next, and
//! who was away comes back at the level of the least served of those who are here, so that nobody saves up. A run is
//! charged with the mean of its invocation at its start and with the truth at its end. Priority (lower is sooner)
//! counts within a tenant, before fairness between its invocations.

use super::limits::{FIRST_CHARGE_MICROS, IDLE_SHARES_MAX};
use std::collections::BTreeMap;
use std::time::Duration;

/// Items that wait, by tenant and invocation.
#[derive(Debug)]
pub struct FairQueue<T> {
    tenants: BTreeMap<String, Tenant<T>>,
    /// What the tenant had used that was served last; only grows.
    floor_micros: u64,
    next_ticket: u64,
}

/// Where an item waits, to take it away again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    tenant: String,
    invocation: String,
    priority: i32,
    number: u64,
}

/// What a popped item was charged, to settle when it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    tenant: String,
    invocation: String,
    charged_micros: u64,
}

impl Bill {
    /// Microseconds: what its invocation's cost, as far as is known.
    #[must_use]
    pub fn charged_micros(&self) -> u64 {
        self.charged_micros
    }
}

/// Whose turn it is.
struct Turn {
    tenant: String,
    invocation: String,
    mean_micros: Option<u64>,
}

#[derive(Debug)]
struct Tenant<T> {
    used_micros: u64,
    floor_micros: u64,
    waiting: usize,
    running: usize,
    invocations: BTreeMap<String, Invocation<T>>,
}

#[derive(Debug)]
struct Invocation<T> {
    used_micros: u64,
    running: usize,
    /// Mean cost of its runs, or none yet.
    mean_micros: Option<u64>,
    waiting: BTreeMap<(i32, u64), T>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        FairQueue { tenants: BTreeMap::new(), floor_micros: 0, next_ticket: 0 }
    }
}

impl<T> FairQueue<T> {
    /// How many of a tenant's items wait.
    #[must_use]
    pub fn waiting(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).map_or(0, |tenant| tenant.waiting)
    }

    /// Adds an item.
    pub fn push(&mut self, tenant: &str, invocation: &str, priority: i32, item: T) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket += 1;
        self.forget_idle();
        // Who has been away begins where the least served of those stands who are here.
        let busy = self.tenants.values().filter(|owner| owner.waiting + owner.running > 0);
        let floor = busy.map(|owner| owner.used_micros).min().unwrap_or(self.floor_micros);
        let owner = self.tenants.entry(tenant.to_owned()).or_insert_with(|| Tenant {
            used_micros: floor,
            floor_micros: 0,
            waiting: 0,
            running: 0,
            invocations: BTreeMap::new(),
        });
        if owner.waiting + owner.running == 0 {
            owner.used_micros = owner.used_micros.max(floor);
        }
        let busy = owner.invocations.values().filter(|line| !line.waiting.is_empty());
        let floor = busy.map(|line| line.used_micros).min().unwrap_or(owner.floor_micros);
        let line = owner.invocations.entry(invocation.to_owned()).or_insert_with(|| Invocation {
            used_micros: floor,
            running: 0,
            mean_micros: None,
            waiting: BTreeMap::new(),
        });
        if line.waiting.is_empty() && line.running == 0 {
            line.used_micros = line.used_micros.max(floor);
        }
        line.waiting.insert((priority, number), item);
        owner.waiting += 1;
        Ticket { tenant: tenant.to_owned(), invocation: invocation.to_owned(), priority, number }
    }

    /// Takes an item away before its turn.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let owner = self.tenants.get_mut(&ticket.tenant)?;
        let line = owner.invocations.get_mut(&ticket.invocation)?;
        let item = line.waiting.remove(&(ticket.priority, ticket.number))?;
        owner.waiting -= 1;
        Some(item)
    }

    /// Lets an item wait with another priority, at its age.
    pub fn reprioritize(&mut self, ticket: &mut Ticket, priority: i32) {
        let line = self
            .tenants
            .get_mut(&ticket.tenant)
            .and_then(|owner| owner.invocations.get_mut(&ticket.invocation));
        if let Some(line) = line
            && let Some(item) = line.waiting.remove(&(ticket.priority, ticket.number))
        {
            line.waiting.insert((priority, ticket.number), item);
            ticket.priority = priority;
        }
    }

    /// Takes the item whose turn it is.
    pub fn pop(&mut self) -> Option<(T, Bill)> {
        let turn = self.turn()?;
        self.take(turn)
    }

    /// Takes the item whose turn it is, if its invocation's are known to cost no more than so many microseconds.
    pub fn pop_light(&mut self, micros_max: u64) -> Option<(T, Bill)> {
        let turn = self.turn()?;
        turn.mean_micros.filter(|mean| *mean <= micros_max)?;
        self.take(turn)
    }

    fn turn(&self) -> Option<Turn> {
        let waiting = self.tenants.iter().filter(|(_, owner)| owner.waiting > 0);
        let (tenant, owner) = waiting.min_by_key(|(_, owner)| owner.used_micros)?;
        let lines = owner.invocations.iter();
        let (_, invocation, line) = lines
            .filter_map(|(name, line)| line.waiting.keys().next().copied().map(|first| (first, name, line)))
            .min_by_key(|((priority, number), _, line)| {
                // Who would have used least after it, so that a tiny action never waits for a round of heavy ones.
                let cost = line.mean_micros.unwrap_or(FIRST_CHARGE_MICROS);
                (*priority, line.used_micros.saturating_add(cost), *number)
            })?;
        let (tenant, invocation) = (tenant.clone(), invocation.clone());
        Some(Turn { tenant, invocation, mean_micros: line.mean_micros })
    }

    fn take(&mut self, Turn { tenant, invocation, mean_micros }: Turn) -> Option<(T, Bill)> {
        let owner = self.tenants.get_mut(&tenant)?;
        let line = owner.invocations.get_mut(&invocation)?;
        let (_, item) = line.waiting.pop_first()?;
        let charge = mean_micros.unwrap_or(FIRST_CHARGE_MICROS);
        self.floor_micros = self.floor_micros.max(owner.used_micros);
        owner.floor_micros = owner.floor_micros.max(line.used_micros);
        line.used_micros += charge;
        line.running += 1;
        owner.used_micros += charge;
        owner.running += 1;
        owner.waiting -= 1;
        Some((item, Bill { tenant, invocation, charged_micros: charge }))
    }

    /// An item that was popped is done and has cost this much.
    pub fn settle(&mut self, bill: &Bill, cost: Duration) {
        let cost = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX >> 8);
        let Some(owner) = self.tenants.get_mut(&bill.tenant) else { return };
        let correct = |used: u64| used.saturating_sub(bill.charged_micros).saturating_add(cost);
        owner.used_micros = correct(owner.used_micros);
        owner.running = owner.running.saturating_sub(1);
        if let Some(line) = owner.invocations.get_mut(&bill.invocation) {
            line.used_micros = correct(line.used_micros);
            line.running = line.running.saturating_sub(1);
            // A mean that forgets, so that a build whose actions become small is soon charged so.
            line.mean_micros = Some(line.mean_micros.map_or(cost, |mean| mean - mean / 4 + cost / 4));
        }
    }

    /// Forgets who has nothing here, once there are many of them.
    fn forget_idle(&mut self) {
        for owner in self.tenants.values_mut().filter(|owner| owner.invocations.len() > IDLE_SHARES_MAX) {
            if owner.invocations.len() > IDLE_SHARES_MAX + owner.waiting + owner.running {
                owner.invocations.retain(|_, line| !line.waiting.is_empty() || line.running > 0);
            }
        }
    }
}
