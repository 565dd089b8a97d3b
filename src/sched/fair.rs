//! The order of what waits: fair between tenants, and within a tenant between invocations.
//!
//! Weighted fair queueing over the slot time or CPU time that was used: whoever will have used least comes next, and
//! who was away comes back at the level of the least served of those who are here, so that nobody saves up. A run is
//! charged with the mean of its invocation at its start and with the truth at its end. Priority (lower is sooner)
//! counts within a tenant, before fairness between its invocations.
//!
//! What is light may be taken out of turn, for a place that is nobody's: that is free, so that no debt comes of it.

use super::limits::{FIRST_CHARGE_MICROS, IDLE_SHARES_MAX};
use super::types::Cost;
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
    charged: Mean,
    /// Taken out of turn.
    is_free: bool,
}

impl Bill {
    /// What its invocation's cost, as far as is known.
    #[must_use]
    pub fn charged(&self) -> Mean {
        self.charged
    }
}

/// What the runs of an invocation cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mean {
    /// Time that is charged, in microseconds.
    pub held_micros: u64,
    /// CPU time, in microseconds.
    pub work_micros: u64,
}

impl Mean {
    /// Nothing is known yet.
    const FIRST: Mean = Mean { held_micros: FIRST_CHARGE_MICROS, work_micros: FIRST_CHARGE_MICROS };

    fn of(cost: Cost) -> Mean {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 8);
        Mean { held_micros: micros(cost.held), work_micros: micros(cost.work) }
    }

    /// A mean that forgets, so that a build whose actions become small is soon charged so.
    fn then(self, latest: Mean) -> Mean {
        let mix = |mean: u64, latest: u64| mean - mean / 4 + latest / 4;
        Mean {
            held_micros: mix(self.held_micros, latest.held_micros),
            work_micros: mix(self.work_micros, latest.work_micros),
        }
    }
}

/// Whose turn it is.
struct Turn {
    tenant: String,
    invocation: String,
    mean: Option<Mean>,
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
    mean: Option<Mean>,
    waiting: BTreeMap<(i32, u64), T>,
}

impl<T> Tenant<T> {
    /// Whose turn it is among those of its invocations that may be chosen.
    fn turn(&self, tenant: &str, may: impl Fn(&Invocation<T>) -> bool) -> Option<Turn> {
        let lines = self.invocations.iter().filter(|(_, line)| may(line));
        let (_, invocation, line) = lines
            .filter_map(|(name, line)| line.waiting.keys().next().copied().map(|first| (first, name, line)))
            .min_by_key(|((priority, number), _, line)| {
                // Who would have used least after it, so that a tiny action never waits for a round of heavy ones.
                let cost = line.mean.unwrap_or(Mean::FIRST).held_micros;
                (*priority, line.used_micros.saturating_add(cost), *number)
            })?;
        Some(Turn { tenant: tenant.to_owned(), invocation: invocation.clone(), mean: line.mean })
    }
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
            mean: None,
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
        self.take(turn, false)
    }

    /// Takes what waits of an invocation whose costs are known to be light enough, whoever's turn it is. It is free.
    pub fn pop_light(&mut self, is_light: impl Fn(Mean) -> bool) -> Option<(T, Bill)> {
        let is_light = |line: &Invocation<T>| line.mean.is_some_and(&is_light);
        let mut owners: Vec<(&String, &Tenant<T>)> =
            self.tenants.iter().filter(|(_, owner)| owner.waiting > 0).collect();
        owners.sort_by_key(|(_, owner)| owner.used_micros);
        let turn = owners.into_iter().find_map(|(tenant, owner)| owner.turn(tenant, is_light))?;
        self.take(turn, true)
    }

    fn turn(&self) -> Option<Turn> {
        let waiting = self.tenants.iter().filter(|(_, owner)| owner.waiting > 0);
        let (tenant, owner) = waiting.min_by_key(|(_, owner)| owner.used_micros)?;
        owner.turn(tenant, |_| true)
    }

    fn take(&mut self, turn: Turn, is_free: bool) -> Option<(T, Bill)> {
        let Turn { tenant, invocation, mean } = turn;
        let owner = self.tenants.get_mut(&tenant)?;
        let line = owner.invocations.get_mut(&invocation)?;
        let (_, item) = line.waiting.pop_first()?;
        let charged = mean.unwrap_or(Mean::FIRST);
        if !is_free {
            self.floor_micros = self.floor_micros.max(owner.used_micros);
            owner.floor_micros = owner.floor_micros.max(line.used_micros);
            line.used_micros += charged.held_micros;
            owner.used_micros += charged.held_micros;
        }
        line.running += 1;
        owner.running += 1;
        owner.waiting -= 1;
        Some((item, Bill { tenant, invocation, charged, is_free }))
    }

    /// An item that was popped is done and has cost this much.
    pub fn settle(&mut self, bill: &Bill, cost: Cost) {
        let cost = Mean::of(cost);
        let Some(owner) = self.tenants.get_mut(&bill.tenant) else { return };
        let correct = |used: u64| match bill.is_free {
            true => used,
            false => used.saturating_sub(bill.charged.held_micros).saturating_add(cost.held_micros),
        };
        owner.used_micros = correct(owner.used_micros);
        owner.running = owner.running.saturating_sub(1);
        if let Some(line) = owner.invocations.get_mut(&bill.invocation) {
            line.used_micros = correct(line.used_micros);
            line.running = line.running.saturating_sub(1);
            line.mean = Some(line.mean.map_or(cost, |mean| mean.then(cost)));
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
