//! Layers that are made here.

use super::changes::{container_on, diff_of, image, tar_names};
use super::*;
use futures_util::StreamExt;

async fn archive_of(layers: &OverlayLayers, chain_id: &Digest) -> io::Result<Vec<u8>> {
    let mut stream = layers.archive(chain_id).await.expect("it is there");
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_filled_folder_becomes_a_layer_whose_tar_can_be_had_again() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let draft = layers.draft().await.expect("a draft");
    fs::create_dir(draft.folder().join("d")).expect("made");
    fs::write(draft.folder().join("d/file"), "content").expect("written");
    std::os::unix::fs::symlink("file", draft.folder().join("d/link")).expect("made");
    let sealed = draft.seal().await.expect("sealed");
    assert!(!sealed.is_empty());
    let (diff_id, size) = (sealed.diff_id().clone(), sealed.tar_size());
    let chain_id = chain_ids(std::slice::from_ref(&diff_id)).remove(0);
    let info = sealed
        .commit(chain_id.clone(), None)
        .await
        .expect("in place");
    assert_eq!((info.diff_id.clone(), info.size), (diff_id.clone(), 7));
    // As it is told by the next engine, too.
    drop(layers);
    let layers = root.open();
    let tar = archive_of(&layers, &chain_id).await.expect("as it was");
    assert_eq!((digest_of(&tar), tar.len() as u64), (diff_id, size));
    assert_eq!(tar_names(&tar), ["d/", "d/file", "d/link"]);
    // Somebody has been at it.
    fs::write(layers.files_of(&chain_id).join("d/file"), "CONTENT").expect("written");
    let error = archive_of(&layers, &chain_id).await.expect_err("changed");
    assert!(error.to_string().contains("not what they were"), "{error}");
    let left: Vec<_> = debris(&root)
        .into_iter()
        .filter(|name| name.starts_with(TEMPORARY))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_a_container_changed_becomes_a_layer_without_a_copy() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let (container, top, merged) = container_on(&layers, &image()).await;
    // What a start makes.
    fs::create_dir_all(merged.join("dev/shm")).expect("made");
    fs::write(merged.join("etc/hosts"), "").expect("made");
    fs::create_dir_all(merged.join("new/deep")).expect("made");
    fs::write(merged.join("new/deep/file"), "new").expect("written");
    fs::remove_file(merged.join("gone")).expect("removed");
    fs::write(merged.join("short"), "").expect("written");
    fs::remove_file(merged.join("short")).expect("removed");
    fs::remove_dir_all(merged.join("data")).expect("removed");
    fs::create_dir(merged.join("data")).expect("made");
    fs::write(merged.join("data/one"), "another").expect("written");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        merged.join("socket"),
        rustix::fs::FileType::Socket,
        Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    let expected = tar_names(&diff_of(&layers, &container, top.as_ref()).await);

    let draft = layers.draft_of(&container, top.as_ref()).await;
    let sealed = draft.expect("taken").seal().await.expect("sealed");
    layers.remove(&container).await.expect("removed");
    let (diff_id, parent) = (sealed.diff_id().clone(), top.clone());
    let mut diff_ids: Vec<Digest> = image().iter().map(|tar| digest_of(tar)).collect();
    diff_ids.push(diff_id.clone());
    let chain_id = chain_ids(&diff_ids).pop().expect("three");
    sealed
        .commit(chain_id.clone(), parent)
        .await
        .expect("in place");
    let tar = archive_of(&layers, &chain_id).await.expect("as it was");
    assert_eq!(digest_of(&tar), diff_id);
    assert_eq!(tar_names(&tar), expected);
    assert!(
        expected.contains(&"data/.wh..wh..opq".to_owned()),
        "{expected:?}"
    );
    assert!(
        !expected.iter().any(|name| name.contains("hosts")),
        "{expected:?}"
    );

    // The next container sees it so, and so does one on the same tar that came from elsewhere.
    let next = ContainerId::random();
    layers
        .prepare(&next, Some(&chain_id))
        .await
        .expect("prepared");
    let here = names(&layers.mount(&next, Some(&chain_id)).await.expect("mounted"));
    let other_root = Root::new();
    let elsewhere = other_root.open();
    let tars = [image(), vec![tar]].concat();
    let (_, _, merged) = container_on(&elsewhere, &tars).await;
    assert_eq!(here, names(&merged));
    assert!(here.contains(&"new/deep/file".to_owned()) && !here.contains(&"gone".to_owned()));
}

#[tokio::test]
async fn a_container_that_changed_nothing_makes_no_layer() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let (container, top, merged) = container_on(&layers, &image()).await;
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        fs::write(merged.join(file), "").expect("made");
    }
    let draft = layers.draft_of(&container, top.as_ref()).await;
    assert!(
        draft
            .expect("taken")
            .seal()
            .await
            .expect("sealed")
            .is_empty()
    );
}
