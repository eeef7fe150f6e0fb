//! The steady state of reading raw records allocates no buffers. A test of its own file, as it counts the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use sparknet_data::{BatchConfig, BatchReader, LmdbWriter, TransformSpec};
use sparknet_proto::caffe::Datum;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_steady_state_allocates_no_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a_lmdb");
    let mut writer = LmdbWriter::create(&path).unwrap();
    for k in 0..300 {
        // Values of two sizes: in the leaves, and in pages of their own.
        let datum = Datum {
            channels: Some(1),
            height: Some(if k % 2 == 0 { 10 } else { 80 }),
            width: Some(60),
            data: Some(vec![k as u8; if k % 2 == 0 { 600 } else { 4800 }]),
            label: Some(k),
            ..Datum::default()
        };
        writer.put(&format!("{k:08}"), &datum).unwrap();
    }
    writer.finish().unwrap();
    let transform = TransformSpec {
        crop_size: 8,
        mirror: true,
        ..TransformSpec::default()
    };
    let config = BatchConfig {
        source: path,
        batch_size: 7,
        transform,
        prefetch: 2,
        ..BatchConfig::default()
    };
    let mut reader = BatchReader::open(config).unwrap();
    // As many batches as can ever be on their way at once.
    let batches: Vec<_> = (0..4).map(|_| reader.next().unwrap().unwrap()).collect();
    batches.into_iter().for_each(|batch| reader.recycle(batch));
    let mut next = || {
        let batch = reader.next().unwrap().unwrap();
        reader.recycle(batch);
    };
    (0..100).for_each(|_| next());
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    (0..100).for_each(|_| next());
    // prost makes a short-lived copy of a Datum's data; the records, the pages and the batches are used again.
    // Between the two counts the thread may have made the batches that were on their way, too.
    let records = (100 + 4) * 7;
    let allocations = ALLOCATIONS.load(Ordering::SeqCst) - before;
    assert!(
        allocations <= records,
        "{allocations} allocations for {records} records"
    );
}
