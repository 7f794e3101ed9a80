//! What may be done with volumes, and by whom they are used.

use super::{
    ANONYMOUS_LABEL, LOCAL_DRIVER, Volume, VolumeError, VolumeRecord, VolumeStore, name, options,
};
use crate::clock::Clock;
use crate::events::{Event, EventBus, EventKind};
use crate::id::ContainerId;
use crate::patterns::Patterns;
use engine_api::Filters;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// A volume to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateVolume {
    /// Empty: an anonymous volume with a random name.
    pub name: String,
    /// Empty is `local`.
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

impl CreateVolume {
    /// A volume of this name with nothing special; what `-v NAME:/path` asks for. An empty name makes an anonymous one.
    pub fn named(name: impl Into<String>) -> CreateVolume {
        CreateVolume {
            name: name.into(),
            ..CreateVolume::default()
        }
    }
}

/// What [`VolumeService::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: Vec<String>,
    /// Bytes.
    pub reclaimed: u64,
}

/// The volumes. Reads are answered from memory.
pub struct VolumeService {
    store: Arc<dyn VolumeStore>,
    events: EventBus,
    clock: Arc<dyn Clock>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held while the store is changed, so that a name is never made and removed at once. `entries` is never held across
    /// an await.
    changing: tokio::sync::Mutex<()>,
}

struct Entry {
    volume: Volume,
    users: BTreeSet<ContainerId>,
    /// Those of the users that run, and have the volume mounted.
    mounters: BTreeSet<ContainerId>,
}

impl VolumeService {
    /// Loads what the store has. Users are told with [`VolumeService::acquire`] by whoever knows them.
    pub async fn load(
        store: Arc<dyn VolumeStore>,
        events: EventBus,
        clock: Arc<dyn Clock>,
    ) -> Result<VolumeService, VolumeError> {
        let mut service = VolumeService::empty(store, events, clock);
        let entries = service
            .entries
            .get_mut()
            .expect("no code panics while it holds this lock");
        for record in service.store.load().await? {
            let mountpoint = service.store.mountpoint(&record.name);
            let entry = Entry::new(record, mountpoint);
            entries.insert(entry.volume.name.clone(), entry);
        }
        Ok(service)
    }

    /// Over a store that is known to be empty (tests).
    pub fn empty(
        store: Arc<dyn VolumeStore>,
        events: EventBus,
        clock: Arc<dyn Clock>,
    ) -> VolumeService {
        VolumeService {
            store,
            events,
            clock,
            entries: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Makes a volume, or returns the one that has the name already, unchanged, as Docker does.
    pub async fn create(&self, request: CreateVolume) -> Result<Volume, VolumeError> {
        self.create_for(request, None).await
    }

    /// Makes a volume (or takes the one that has the name) for a container, which from now on keeps it from being removed.
    pub async fn acquire(
        &self,
        request: CreateVolume,
        container: &ContainerId,
    ) -> Result<Volume, VolumeError> {
        self.create_for(request, Some(container)).await
    }

    async fn create_for(
        &self,
        mut request: CreateVolume,
        user: Option<&ContainerId>,
    ) -> Result<Volume, VolumeError> {
        check_request(&request, self.store.limits_size())?;
        if request.name.is_empty() {
            request.name = ContainerId::random().to_string();
            request.labels.insert(ANONYMOUS_LABEL.into(), String::new());
        }
        if let Some(volume) = self.take(&request.name, user) {
            return Ok(volume);
        }
        let _changing = self.changing.lock().await;
        // Somebody may have made it while this one waited.
        if let Some(volume) = self.take(&request.name, user) {
            return Ok(volume);
        }
        let record = VolumeRecord {
            name: request.name,
            labels: request.labels,
            created: self.clock.now(),
            options: request.driver_options,
        };
        self.store.create(&record).await?;
        let mountpoint = self.store.mountpoint(&record.name);
        let mut entry = Entry::new(record, mountpoint);
        entry.users.extend(user.cloned());
        let volume = entry.volume.clone();
        self.entries().insert(volume.name.clone(), entry);
        self.tell("create", &volume.name);
        Ok(volume)
    }

    /// The volume of this name, if there is one, with `user` added to its users.
    fn take(&self, name: &str, user: Option<&ContainerId>) -> Option<Volume> {
        let mut entries = self.entries();
        let entry = entries.get_mut(name)?;
        entry.users.extend(user.cloned());
        Some(entry.volume.clone())
    }

    /// Has a volume mounted for a container that starts (or, after a restart of the engine, is found running), until
    /// [`VolumeService::unmount`]. `facts` are those of the mount, for the event.
    pub async fn mount<const N: usize>(
        &self,
        name: &str,
        container: &ContainerId,
        facts: [(&str, String); N],
    ) -> Result<(), VolumeError> {
        self.hold(name, container).await?;
        let mut attributes: BTreeMap<String, String> = facts
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        attributes.insert("container".into(), container.to_string());
        self.tell_more("mount", name, attributes);
        Ok(())
    }

    /// The same without telling anybody: for reading and filling a volume, and for containers found running.
    pub async fn hold(&self, name: &str, container: &ContainerId) -> Result<(), VolumeError> {
        let add = |entry: &mut Entry| entry.mounters.insert(container.clone());
        let driver = match self.entries().get_mut(name) {
            None => return Err(VolumeError::NotFound { name: name.into() }),
            Some(entry) => match options::mount(&entry.volume.options) {
                None => {
                    add(entry);
                    return Ok(());
                }
                Some(driver) => driver,
            },
        };
        let _changing = self.changing.lock().await;
        let first = match self.entries().get(name) {
            None => return Err(VolumeError::NotFound { name: name.into() }),
            Some(entry) => entry.mounters.is_empty(),
        };
        if first && let Err(error) = self.store.mount(name, &driver).await {
            return Err(VolumeError::Mount {
                why: error.source.to_string(),
            });
        }
        if let Some(entry) = self.entries().get_mut(name) {
            add(entry);
        }
        Ok(())
    }

    /// Undoes [`VolumeService::mount`]. Not having mounted it is no error.
    pub async fn unmount(&self, name: &str, container: &ContainerId) {
        if self.let_go(name, container).await {
            let attributes = BTreeMap::from([("container".into(), container.to_string())]);
            self.tell_more("unmount", name, attributes);
        }
    }

    /// Undoes [`VolumeService::hold`]; whether the container held it.
    pub async fn let_go(&self, name: &str, container: &ContainerId) -> bool {
        let (held, mounted) = match self.entries().get_mut(name) {
            None => return false,
            Some(entry) => (
                entry.mounters.remove(container),
                options::mount(&entry.volume.options).is_some(),
            ),
        };
        if held && mounted {
            let _changing = self.changing.lock().await;
            self.unmount_unused(name).await;
        }
        held
    }

    /// Unmounts what nobody uses: for the start of the engine, once every running container has told what it has.
    pub async fn settle(&self) {
        let _changing = self.changing.lock().await;
        let names: Vec<String> = self
            .entries()
            .values()
            .filter(|entry| options::mount(&entry.volume.options).is_some())
            .map(|entry| entry.volume.name.clone())
            .collect();
        for name in names {
            self.unmount_unused(&name).await;
        }
    }

    /// The caller holds `changing`.
    async fn unmount_unused(&self, name: &str) {
        let used = match self.entries().get(name) {
            None => true,
            Some(entry) => !entry.mounters.is_empty(),
        };
        if used {
            return;
        }
        if let Err(error) = self.store.unmount(name).await {
            tracing::warn!(
                volume = name,
                error = crate::error::full_message(&error),
                "a volume is still mounted"
            );
        }
    }

    /// A container does not use the volume any more. Not having used it is no error.
    pub fn release(&self, name: &str, container: &ContainerId) {
        if let Some(entry) = self.entries().get_mut(name) {
            entry.users.remove(container);
        }
    }

    /// One volume.
    pub fn inspect(&self, name: &str) -> Result<Volume, VolumeError> {
        match self.entries().get(name) {
            Some(entry) => Ok(entry.volume.clone()),
            None => Err(VolumeError::NotFound { name: name.into() }),
        }
    }

    /// The volumes that fit the filters `dangling`, `driver`, `label`, `name`, in order of their names.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Volume>, VolumeError> {
        filters.only(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.flag("dangling")?;
        let names = Patterns::of(filters, "name");
        let entries = self.entries();
        let fitting = entries.values().filter(|entry| {
            dangling.is_none_or(|dangling| dangling == entry.users.is_empty())
                && filters.exact("driver", LOCAL_DRIVER)
                && names.fit(&[&entry.volume.name])
                && filters.labels(&entry.volume.labels)
        });
        Ok(fitting.map(|entry| entry.volume.clone()).collect())
    }

    /// Removes a volume and its data. With `force`, one that does not exist is no error (one in use still is).
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), VolumeError> {
        let _changing = self.changing.lock().await;
        match self.remove_unused(name).await {
            Err(VolumeError::NotFound { .. }) if force => Ok(()),
            result => result,
        }
    }

    /// The caller holds `changing`.
    async fn remove_unused(&self, name: &str) -> Result<(), VolumeError> {
        let entry = {
            let mut entries = self.entries();
            match entries.get(name) {
                None => return Err(VolumeError::NotFound { name: name.into() }),
                Some(entry) if !entry.users.is_empty() => {
                    return Err(VolumeError::InUse {
                        name: name.into(),
                        users: entry.users.iter().cloned().collect(),
                    });
                }
                // Out of the list first: nobody can acquire what is being removed.
                Some(_) => entries.remove(name).expect("it was there a moment ago"),
            }
        };
        if let Err(error) = self.store.remove(name).await {
            self.entries().insert(name.to_owned(), entry);
            return Err(error.into());
        }
        self.tell("destroy", name);
        Ok(())
    }

    /// Removes unused volumes that fit the filters `label` and `label!`: anonymous ones, or with `all` every one. Volumes
    /// with options stay, as in Docker: what is in them is elsewhere.
    pub async fn prune(&self, filters: &Filters, all: bool) -> Result<Pruned, VolumeError> {
        filters.only(&["all", "label", "label!"])?;
        let _changing = self.changing.lock().await;
        let names: Vec<String> = self
            .entries()
            .values()
            .filter(|entry| entry.users.is_empty())
            .filter(|entry| all || entry.volume.is_anonymous())
            .filter(|entry| entry.volume.options.is_empty())
            .filter(|entry| filters.labels(&entry.volume.labels))
            .map(|entry| entry.volume.name.clone())
            .collect();
        let mut pruned = Pruned::default();
        for name in names {
            let bytes = self.store.usage(&name).await.unwrap_or(0);
            match self.remove_unused(&name).await {
                Ok(()) => {
                    pruned.reclaimed += bytes;
                    pruned.removed.push(name);
                }
                // Taken by a container since it was listed.
                Err(VolumeError::InUse { .. } | VolumeError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.events.publish(Event {
            kind: EventKind::Volume,
            action: "prune".into(),
            actor: String::new(),
            attributes: BTreeMap::from([("reclaimed".into(), pruned.reclaimed.to_string())]),
            at: self.clock.now(),
        });
        Ok(pruned)
    }

    /// For `docker system df`: each volume, how many containers use it, and its size in bytes. Volumes with options are
    /// left out, as in Docker.
    pub async fn usage(&self) -> Result<Vec<(Volume, usize, u64)>, VolumeError> {
        let volumes: Vec<(Volume, usize)> = self
            .entries()
            .values()
            .filter(|entry| entry.volume.options.is_empty())
            .map(|entry| (entry.volume.clone(), entry.users.len()))
            .collect();
        let mut usage = Vec::with_capacity(volumes.len());
        for (volume, users) in volumes {
            let bytes = self.store.usage(&volume.name).await?;
            usage.push((volume, users, bytes));
        }
        Ok(usage)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn tell(&self, action: &str, name: &str) {
        self.tell_more(action, name, BTreeMap::new());
    }

    fn tell_more(&self, action: &str, name: &str, mut attributes: BTreeMap<String, String>) {
        attributes.insert("driver".into(), LOCAL_DRIVER.into());
        self.events.publish(Event {
            kind: EventKind::Volume,
            action: action.into(),
            actor: name.into(),
            attributes,
            at: self.clock.now(),
        });
    }
}

impl Entry {
    fn new(record: VolumeRecord, mountpoint: std::path::PathBuf) -> Entry {
        Entry {
            volume: Volume {
                name: record.name,
                labels: record.labels,
                created: record.created,
                mountpoint,
                options: record.options,
            },
            users: BTreeSet::new(),
            mounters: BTreeSet::new(),
        }
    }
}

fn check_request(request: &CreateVolume, limits_size: bool) -> Result<(), VolumeError> {
    let CreateVolume {
        name,
        driver,
        driver_options,
        labels: _,
    } = request;
    if !driver.is_empty() && driver != LOCAL_DRIVER {
        return Err(VolumeError::UnknownDriver {
            name: name.clone(),
            driver: driver.clone(),
        });
    }
    if !name.is_empty() {
        name::check(name).map_err(|why| VolumeError::Name {
            name: name.clone(),
            why,
        })?;
    }
    options::check(driver_options, limits_size).map_err(|why| VolumeError::Option {
        name: name.clone(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeVolumeStore;
    use super::*;
    use crate::clock::SystemClock;
    use crate::error::{Class, Classify};

    async fn service() -> (Arc<FakeVolumeStore>, EventBus, VolumeService) {
        let store = Arc::new(FakeVolumeStore::default());
        let events = EventBus::new();
        let service = VolumeService::load(store.clone(), events.clone(), Arc::new(SystemClock))
            .await
            .unwrap();
        (store, events, service)
    }

    #[tokio::test]
    async fn creating_twice_gives_the_first_one() {
        let (_, events, volumes) = service().await;
        let mut request = CreateVolume::named("data");
        request.labels.insert("a".into(), "1".into());
        let first = volumes.create(request).await.unwrap();
        let second = volumes.create(CreateVolume::named("data")).await.unwrap();
        assert_eq!(first, second);
        assert_eq!(events.subscribe().0.len(), 1, "one create event");
    }

    #[tokio::test]
    async fn an_anonymous_volume_gets_a_full_id_and_dockers_label() {
        let (_, _, volumes) = service().await;
        let volume = volumes.create(CreateVolume::default()).await.unwrap();
        assert!(crate::id::is_full_id(&volume.name));
        assert!(volume.is_anonymous());
    }

    #[tokio::test]
    async fn a_volume_in_use_stays() {
        let (_, _, volumes) = service().await;
        let user = ContainerId::random();
        volumes
            .acquire(CreateVolume::named("data"), &user)
            .await
            .unwrap();
        for force in [false, true] {
            let error = volumes.remove("data", force).await.unwrap_err();
            assert_eq!(error.class(), Class::Conflict);
            assert_eq!(
                error.to_string(),
                format!("remove data: volume is in use - [{user}]")
            );
        }
        assert_eq!(
            volumes.prune(&Filters::default(), true).await.unwrap(),
            Pruned::default()
        );
        volumes.release("data", &user);
        volumes.remove("data", false).await.unwrap();
        let error = volumes.remove("data", false).await.unwrap_err();
        assert_eq!(error.to_string(), "get data: no such volume");
        assert_eq!(error.class(), Class::NotFound);
        volumes.remove("data", true).await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_removal_keeps_the_volume_and_a_failed_creation_makes_none() {
        let (store, _, volumes) = service().await;
        store.fail_next("disk full");
        let error = volumes
            .create(CreateVolume::named("data"))
            .await
            .unwrap_err();
        assert_eq!(
            crate::error::full_message(&error),
            "cannot create the volume: disk full"
        );
        assert!(volumes.inspect("data").is_err());
        volumes.create(CreateVolume::named("data")).await.unwrap();
        store.fail_next("busy");
        assert!(volumes.remove("data", false).await.is_err());
        assert!(volumes.inspect("data").is_ok());
    }

    #[tokio::test]
    async fn bad_requests_are_refused_in_dockers_words() {
        let (_, _, volumes) = service().await;
        let refusal = async |request| {
            let error = volumes.create(request).await.unwrap_err();
            (error.class(), error.to_string())
        };
        let (class, text) = refusal(CreateVolume::named("a/b")).await;
        assert_eq!(class, Class::Invalid);
        assert!(
            text.starts_with("create a/b: \"a/b\" includes invalid characters"),
            "{text}"
        );
        let (class, text) = refusal(CreateVolume {
            driver: "nfs".into(),
            ..CreateVolume::named("data")
        })
        .await;
        assert_eq!(class, Class::NotFound);
        assert_eq!(
            text,
            "create data: error looking up volume plugin nfs: plugin \"nfs\" not found"
        );
        let (class, text) = refusal(CreateVolume {
            driver_options: BTreeMap::from([("device".into(), "/x".into())]),
            ..CreateVolume::named("data")
        })
        .await;
        assert_eq!(class, Class::Invalid);
        assert!(
            text == "create data: missing required option: \"type\"",
            "{text}"
        );
    }

    #[tokio::test]
    async fn lists_are_filtered() {
        let (_, _, volumes) = service().await;
        let user = ContainerId::random();
        let labelled = CreateVolume {
            labels: BTreeMap::from([("tier".into(), "db".into())]),
            ..CreateVolume::named("used")
        };
        volumes.acquire(labelled, &user).await.unwrap();
        volumes.create(CreateVolume::named("spare")).await.unwrap();
        let names = |name, value| {
            let list = volumes.list(&Filters::of([(name, value)])).unwrap();
            list.into_iter()
                .map(|volume| volume.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names("dangling", "true"), ["spare"]);
        assert_eq!(names("dangling", "0"), ["used"]);
        assert_eq!(names("label", "tier=db"), ["used"]);
        assert_eq!(names("name", "spa"), ["spare"]);
        assert_eq!(names("name", "^sp.re$"), ["spare"]);
        assert!(names("name", "^spa$").is_empty());
        assert_eq!(names("driver", "local"), ["spare", "used"]);
        assert!(names("driver", "nfs").is_empty());
        assert!(volumes.list(&Filters::of([("size", "1")])).is_err());
    }

    #[tokio::test]
    async fn pruning_takes_anonymous_ones_unless_told_all() {
        let (_, _, volumes) = service().await;
        let anonymous = volumes.create(CreateVolume::default()).await.unwrap();
        volumes.create(CreateVolume::named("named")).await.unwrap();
        let pruned = volumes.prune(&Filters::default(), false).await.unwrap();
        assert_eq!(pruned.removed, [anonymous.name]);
        let pruned = volumes.prune(&Filters::default(), true).await.unwrap();
        assert_eq!(pruned.removed, ["named"]);
    }

    #[tokio::test]
    async fn options_are_mounted_for_the_first_container_until_the_last_one_ends() {
        let (store, events, volumes) = service().await;
        let request = CreateVolume {
            driver_options: BTreeMap::from([
                ("type".into(), "tmpfs".into()),
                ("device".into(), "tmpfs".into()),
            ]),
            ..CreateVolume::named("data")
        };
        let (one, two) = (ContainerId::random(), ContainerId::random());
        for user in [&one, &two] {
            volumes.acquire(request.clone(), user).await.unwrap();
        }
        assert!(store.mounted().is_empty(), "nobody runs");
        store.fail_next("no such device");
        let error = volumes.mount("data", &one, []).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to mount local volume: no such device"
        );
        volumes
            .mount("data", &one, [("destination", "/d".into())])
            .await
            .unwrap();
        volumes.hold("data", &two).await.unwrap();
        volumes.unmount("data", &one).await;
        assert_eq!(store.mounted(), ["data"]);
        volumes.settle().await;
        assert_eq!(store.mounted(), ["data"], "somebody has it");
        volumes.let_go("data", &two).await;
        assert!(store.mounted().is_empty());
        volumes.unmount("data", &one).await;
        let told = events.subscribe().0;
        let actions: Vec<&str> = told.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["create", "mount", "unmount"]);
        assert_eq!(told[1].attributes["destination"], "/d");
        assert_eq!(told[1].attributes["container"], one.to_string());
        for user in [&one, &two] {
            volumes.release("data", user);
        }
        let pruned = volumes.prune(&Filters::default(), true).await.unwrap();
        assert!(pruned.removed.is_empty(), "what is in it is elsewhere");
        assert!(volumes.usage().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn many_at_once_make_one_volume() {
        let (_, events, volumes) = service().await;
        let volumes = Arc::new(volumes);
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let volumes = volumes.clone();
                tokio::spawn(async move { volumes.create(CreateVolume::named("data")).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(events.subscribe().0.len(), 1);
    }
}
