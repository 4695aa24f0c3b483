//! Placing 10,000 documents on 64 shards; the bar is 1 ms.

use criterion::{Criterion, criterion_group, criterion_main};
use miroir_membership::placement::shard_of;

fn place_documents(c: &mut Criterion) {
    let ids: Vec<String> = (0..10_000).map(|n| format!("nou-{n:08}")).collect();
    c.bench_function("place 10,000 documents on 64 shards", |bencher| {
        bencher.iter(|| ids.iter().map(|id| u64::from(shard_of(id, 64).0)).sum::<u64>());
    });
}

criterion_group!(benches, place_documents);
criterion_main!(benches);
