//! The merge of three nodes' lists of a thousand hits: under 1 ms.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use miroir_gateway::merge::answer::NodeAnswer;
use miroir_gateway::merge::facets::FacetRules;
use miroir_gateway::merge::rank::HitOrder;
use miroir_gateway::merge::render::HitCuts;
use miroir_gateway::merge::{MergePlan, WindowEcho, merge_answers};

const NODES: usize = 3;

fn body(node: usize, hits: usize, details: bool) -> Bytes {
    let mut body = String::from("{\"hits\":[");
    for place in 0..hits {
        if place > 0 {
            body.push(',');
        }
        let score = 1.0 - (place * NODES + node) as f64 / (hits * NODES + 1) as f64;
        body.push_str(&format!(
            r#"{{"_miroir_shard":"†‡","id":{},"word":"word{place}","definition":"a thing that is like another thing, said \"twice\"","lexname":"noun.act""#,
            place * NODES + node,
        ));
        body.push_str(&format!(r#","_rankingScore":{score}"#));
        if details {
            body.push_str(&format!(
                r#","_rankingScoreDetails":{{"words":{{"order":0,"matchingWords":2,"maxMatchingWords":2,"score":1.0}},"typo":{{"order":1,"typoCount":0,"maxTypoCount":3,"score":1.0}},"price:asc":{{"order":2,"value":{place}.0}},"exactness":{{"order":3,"matchType":"noExactMatch","matchingWords":1,"maxMatchingWords":2,"score":0.2}}}}"#,
            ));
        }
        body.push('}');
    }
    body.push_str("],\"query\":\"word\",\"processingTimeMs\":1,\"limit\":1000,\"offset\":0,\"estimatedTotalHits\":1000}");
    Bytes::from(body)
}

fn plan(order: HitOrder, end: usize) -> MergePlan {
    MergePlan {
        order,
        distinct: None,
        counts_distinct: false,
        window: 0..end,
        cuts: HitCuts {
            reserved: true,
            score: true,
            details: order == HitOrder::Rules,
            ..Default::default()
        },
        facets: FacetRules::default(),
        total_hits_max: 1000,
        echo: WindowEcho::Offset { offset: 0, limit: end as u64 },
        query: "word".into(),
        index_uid: None,
    }
}

fn merge(criterion: &mut Criterion) {
    let cases = [
        ("score, 3 x 1000 hits, page of 1000", HitOrder::Score, 1000, 1000),
        ("score, 3 x 1000 hits, page of 20", HitOrder::Score, 1000, 20),
        ("rules, 3 x 1000 hits, page of 1000", HitOrder::Rules, 1000, 1000),
        ("score, 3 x 20 hits", HitOrder::Score, 20, 20),
        ("rules, 3 x 20 hits", HitOrder::Rules, 20, 20),
    ];
    for (name, order, hits, end) in cases {
        let bodies: Vec<Bytes> =
            (0..NODES).map(|node| body(node, hits, order == HitOrder::Rules)).collect();
        let parsed: Vec<NodeAnswer> =
            bodies.iter().filter_map(|body| NodeAnswer::parse(body.clone()).ok()).collect();
        let plan = plan(order, end);
        criterion.bench_function(&format!("merge: {name}"), |bencher| {
            bencher.iter(|| merge_answers(black_box(&parsed), &[], &plan, 1));
        });
        criterion.bench_function(&format!("parse and merge: {name}"), |bencher| {
            bencher.iter(|| {
                let parsed: Vec<NodeAnswer> = bodies
                    .iter()
                    .filter_map(|body| NodeAnswer::parse(black_box(body.clone())).ok())
                    .collect();
                merge_answers(&parsed, &[], &plan, 1)
            });
        });
    }
}

criterion_group!(benches, merge);
criterion_main!(benches);
