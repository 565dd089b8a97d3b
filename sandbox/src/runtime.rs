//! The runtime: zygote, host features, cgroup tree and compiled specs, started once at the beginning of `main`.
//!
//! ```text
//! main ─► Runtime::start ─► (ordinary user: own user namespace) ─► own mount namespace ─► fork the zygote ─► threads
//! ```
//! State of the calling process afterwards: as root, the host's root in a mount namespace of its own, which receives
//! the host's mounts and shows it none; as an ordinary user, uid 0 of a user namespace of its own in which only that
//! user exists. Either way a crash takes all mounts with it.
use crate::cgroup::{CgroupError, CgroupHost, CgroupTree};
use crate::harden::Enforcement;
use crate::host::{self, Features, Support};
use crate::plan::compile::{CompileError, compile};
use crate::plan::{Plan, wire};
use crate::seat::Seats;
use crate::spec::SandboxSpec;
use crate::sys::mount;
use crate::sys::{Errno, process};
use crate::trees::Trees;
use crate::zygote::{Zygote, ZygoteError};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Why the runtime, a template or a sandbox could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The host does not let this user make sandboxes.
    #[error("cannot make sandboxes here: {why}")]
    Host {
        /// Why.
        why: String,
        /// What would change that.
        remedy: Option<String>,
    },
    /// The spec cannot become a plan.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The zygote could not do it.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
    /// A cgroup could not be had or set.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A step of the plan failed inside.
    #[error(transparent)]
    Step(#[from] crate::plan::StepFailure),
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    System {
        /// What was tried, on what.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The sandbox has ended.
    #[error("cannot {what}: the sandbox has ended")]
    Ended {
        /// What was tried.
        what: &'static str,
    },
}

impl SandboxError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(Errno) -> SandboxError {
        let what = what.into();
        move |errno| SandboxError::System { what, errno }
    }

    /// What the user can do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            SandboxError::Host { remedy, .. } => remedy.clone(),
            SandboxError::Cgroup(
                CgroupError::LimitUnavailable { hint, .. } | CgroupError::NoPlace { hint, .. },
            ) => hint.clone(),
            _ => None,
        }
    }
}

/// Which cgroups a runtime makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupUse {
    /// All that the host gives.
    #[default]
    All,
    /// Only those of version 2. On a hybrid host that leaves out all limits, and the milliseconds that moving a process
    /// into a v1 cgroup costs.
    OnlyV2,
    /// None: no limits, no accounting but that of rusage.
    None,
}

/// What [`Runtime::start`] shall do.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// Which cgroups it makes.
    pub cgroups: CgroupUse,
    /// One sandbox at most will be made: nothing is made ahead for the next one.
    pub once: bool,
}

/// A spec, compiled and built: sandboxes are cloned from it.
#[derive(Debug)]
pub struct Template {
    /// What it was compiled from.
    pub spec: SandboxSpec,
    /// The steps.
    pub plan: Plan,
    /// What hardening the plan enforces.
    pub enforcement: Enforcement,
    /// The encoded plan, in a sealed memfd.
    pub(crate) encoded: OwnedFd,
    /// The mount namespace of its view.
    pub(crate) view: OwnedFd,
    /// Opens what each sandbox attaches for itself.
    pub(crate) trees: Arc<Trees>,
}

/// Templates that are kept; when there are more, those that nobody uses go, least recently used first.
const TEMPLATES_MAX: usize = 64;

#[derive(Debug)]
struct Kept {
    template: Arc<Template>,
    used: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Runtime {
    zygote: Arc<Zygote>,
    features: Features,
    cgroup_host: CgroupHost,
    pub(crate) seats: Seats,
    trees: Arc<Trees>,
    templates: Mutex<HashMap<SandboxSpec, Kept>>,
    next_use: AtomicU64,
    /// A predecessor's processes were still dying: one that waits for a disk takes its time.
    unswept: bool,
}

impl Runtime {
    /// Starts the runtime. Must be called while the process has one thread, early in `main`.
    ///
    /// # Errors
    /// [`SandboxError::Host`] where sandboxes cannot be made at all, with the remedy; [`SandboxError::Zygote`] if
    /// threads exist already.
    pub fn start(options: &RuntimeOptions) -> Result<Runtime, SandboxError> {
        let administrator = host::is_administrator();
        if let Support::No { why, remedy } = host::user_namespaces() {
            return Err(SandboxError::Host { why, remedy });
        }
        let threads = crate::init::nursery::thread_count();
        if threads > 1 {
            return Err(ZygoteError::Threads { threads }.into());
        }
        // Where the cgroups are is read before the move, while the paths are the host's.
        let cgroup_host = CgroupHost::probe();
        // What a killed predecessor left is removed by the names that it gave it.
        let unswept = options.cgroups != CgroupUse::None
            && !crate::cgroup::sweep_stale(&cgroup_host).is_empty()
            && crate::cgroup::has_stale(&cgroup_host);
        let cgroup_host = match options.cgroups {
            CgroupUse::OnlyV2 => cgroup_host.without_v1(),
            CgroupUse::All | CgroupUse::None => cgroup_host,
        };
        enter_namespaces(administrator)?;
        let zygote = Arc::new(Zygote::start(options.once)?);
        let mut features = features(administrator, &zygote);
        let tree = match options.cgroups {
            CgroupUse::None => Err("they were not asked for".to_owned()),
            CgroupUse::All | CgroupUse::OnlyV2 => {
                CgroupTree::create(&cgroup_host, "sandboxes").map_err(|error| error.to_string())
            }
        };
        let tree_made = tree.is_ok();
        features.cgroup_v2 = tree_made && cgroup_host.v2_place().is_some();
        features.shares_memory_cgroup = tree_made && !cgroup_host.v1_places().is_empty();
        let seats = Seats::new(zygote.clone(), tree, administrator);
        let trees = Arc::new(Trees::new(zygote.clone(), &features));
        Ok(Runtime {
            trees,
            zygote,
            features,
            cgroup_host,
            seats,
            templates: Mutex::default(),
            next_use: AtomicU64::new(0),
            unswept,
        })
    }

    /// What this host gives.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// What cgroups this host gives.
    #[must_use]
    pub fn cgroup_host(&self) -> &CgroupHost {
        &self.cgroup_host
    }

    /// The zygote's pid; for tests and status.
    #[must_use]
    pub fn zygote_pid(&self) -> u32 {
        self.zygote.pid()
    }

    /// The template of a spec: compiled and built at the first call, then kept.
    ///
    /// # Errors
    /// [`SandboxError::Compile`], or the step of the view that failed.
    pub fn template(&self, spec: &SandboxSpec) -> Result<Arc<Template>, SandboxError> {
        self.template_failing_at(spec, 0)
    }

    /// As [`Runtime::template`]; the view's step `fail_at` fails. Fault injection for tests.
    ///
    /// # Errors
    /// As [`Runtime::template`].
    pub fn template_failing_at(
        &self,
        spec: &SandboxSpec,
        fail_at: u32,
    ) -> Result<Arc<Template>, SandboxError> {
        let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.next_use.fetch_add(1, Ordering::Relaxed);
        if let (Some(kept), 0) = (templates.get_mut(spec), fail_at) {
            kept.used = used;
            return Ok(kept.template.clone());
        }
        make_room(&mut templates);
        let entries = host::entries(&spec.root).map_err(|error| SandboxError::Host {
            why: format!("cannot read the root directory: {error}"),
            remedy: None,
        })?;
        let (plan, enforcement) = compile(spec, &self.features, &entries)?;
        let encoded = encode(&plan)?;
        let trees = self.trees.for_view(&plan)?;
        let borrowed: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
        let view = self.zygote.build_view(&plan, encoded.as_fd(), &borrowed, fail_at)?;
        let own = self.trees.clone();
        let template =
            Arc::new(Template { spec: spec.clone(), plan, enforcement, encoded, view, trees: own });
        templates.insert(spec.clone(), Kept { template: template.clone(), used });
        Ok(template)
    }

    /// A detached mount of `tree` in which the files of its owner belong to the action `action_id`; `None` where the
    /// ids need no mapping, or the filesystem has none.
    ///
    /// # Errors
    /// [`SandboxError::System`].
    pub fn map_owner(&self, tree: BorrowedFd<'_>, action_id: u32) -> Result<Option<OwnedFd>, SandboxError> {
        self.trees.map_owner(tree, action_id)
    }

    /// Ends the zygote and every sandbox, and removes the cgroups.
    ///
    /// # Errors
    /// [`SandboxError::Cgroup`] with the directories that could not be removed.
    pub fn stop(self) -> Result<(), SandboxError> {
        let Runtime { zygote, seats, templates, trees, cgroup_host, unswept, .. } = self;
        drop((templates, trees));
        let result = seats.stop();
        if unswept {
            crate::cgroup::sweep_stale(&cgroup_host);
        }
        if let Some(zygote) = Arc::into_inner(zygote) {
            zygote.stop();
        }
        result
    }
}

/// Makes room for one more template: the least recently used one that nobody holds goes, with its view.
fn make_room(templates: &mut HashMap<SandboxSpec, Kept>) {
    if templates.len() < TEMPLATES_MAX {
        return;
    }
    let unused = templates.iter().filter(|(_, kept)| Arc::strong_count(&kept.template) == 1);
    let oldest = unused.min_by_key(|(_, kept)| kept.used).map(|(spec, _)| spec.clone());
    oldest.and_then(|spec| templates.remove(&spec));
}

/// Encodes a plan into a sealed memfd, so that nobody can change it after it was checked.
fn encode(plan: &Plan) -> Result<OwnedFd, SandboxError> {
    let failed = |errno| SandboxError::System { what: "encode the plan".to_owned(), errno };
    let bytes = wire::encode(plan).map_err(failed)?;
    sealed("fulgurite-plan", &bytes).map_err(failed)
}

/// A sealed memfd with these bytes.
pub(crate) fn sealed(name: &str, mut bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(&file, bytes))?;
        bytes = bytes.get(count..).unwrap_or(&[]);
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// Leaves the host's mount namespace, and as an ordinary user its user namespace as well.
fn enter_namespaces(administrator: bool) -> Result<(), SandboxError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    process::unshare_at_start(!administrator).map_err(|errno| SandboxError::Host {
        why: format!("cannot make a user and a mount namespace: {errno}"),
        remedy: Some("see `fulgurite doctor`; in a container, allow user namespaces and mounts".to_owned()),
    })?;
    if !administrator {
        // One id is all that an ordinary user may map (user_namespaces(7)), and only with setgroups denied.
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1\n")),
            ("gid_map", format!("0 {gid} 1\n")),
        ] {
            let path = format!("/proc/self/{file}");
            std::fs::write(&path, text).map_err(|error| SandboxError::Host {
                why: format!("cannot write {path}: {error}"),
                remedy: None,
            })?;
        }
    }
    let root = mount::opath(mount::here(), c"/").map_err(SandboxError::system("open the root directory"))?;
    mount::make_slave_recursive(root.as_fd()).map_err(SandboxError::system("make the host's mounts slaves"))
}

fn features(administrator: bool, zygote: &Zygote) -> Features {
    let mut features = Features {
        kernel: host::kernel_release(),
        privileged: administrator,
        user_namespaces: Support::Yes,
        two_ids: administrator,
        seccomp: host::seccomp(),
        landlock_abi: host::landlock_abi(),
        cgroup_v2: false,
        shares_memory_cgroup: false,
        idmapped_mounts: Support::Yes,
        overlay: Support::Yes,
        overlay_detached_layers: Support::Yes,
        proc_entries: host::proc_entries(),
    };
    crate::probe::mounts(&mut features, zygote);
    features
}
