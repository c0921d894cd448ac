//! What a plan says, and which bytes are none.

use super::*;

/// The plan with a change, encoded and read back.
fn changed(change: impl FnOnce(&mut Plan)) -> Result<Plan, PlanError> {
    let mut plan = plan();
    change(&mut plan);
    let (id, bytes) = plan.encode();
    Plan::decode(id, &bytes)
}

#[test]
fn a_plan_says_whether_sites_count_and_where_the_seed_is() {
    assert_eq!(plan().seed_site(), None);
    let in_sites = plan().in_sites("west").unwrap();
    assert_eq!(in_sites.seed_site(), Some("west"));
    let (seed, web1, db1) = (name("deploy1"), name("web1"), name("db1"));
    assert_eq!(in_sites.site_of(&seed), Some("west"));
    assert_eq!(in_sites.site_of(&web1), Some("east"));
    assert_eq!(in_sites.site_of(&name("web2")), None);
    assert!(in_sites.are_apart(&seed, &web1) && in_sites.are_apart(&web1, &seed));
    assert!(!in_sites.are_apart(&db1, &web1) && !in_sites.are_apart(&seed, &name("web2")));
    assert!(!plan().are_apart(&seed, &web1));
    let (id, bytes) = in_sites.encode();
    assert_eq!(Plan::decode(id, &bytes).unwrap(), in_sites);
    // The plan without its last byte, the number of its extensions: then one extension, tag 1, 4 bytes.
    let plain = golden(PLAN);
    let without = &plain[..plain.len() - 1];
    assert_eq!(bytes, [without, b"\x01\x01\x04west"].concat());
    assert_eq!(in_sites.in_sites("").unwrap().seed_site(), Some(""));
    assert!(plan().in_sites(&"x".repeat(5000)).is_err());

    let bytes = Bytes::from_static(b"\xff");
    let no_text =
        Extensions::try_from(vec![scap_proto::extensions::Extension { tag: 1, bytes }]).unwrap();
    let refused = changed(|plan| plan.extensions = no_text);
    assert!(matches!(refused, Err(PlanError::SeedSite)));
}

#[test]
fn a_plan_says_which_hosts_stand_behind_others() {
    let (seed, web1, db1) = (name("deploy1"), name("web1"), name("db1"));
    assert!(plan().routes().are_open());
    assert!(plan().reaches(&seed, &db1) && plan().reaches(&web1, &db1));
    let routes = Routes::new([vec![1]]).unwrap();
    let plan_of = |routes: &Routes| plan().with_routes(routes).unwrap();
    let behind = plan_of(&routes);
    assert_eq!(behind.routes(), routes);
    assert!(behind.reaches(&web1, &db1) && behind.reaches(&seed, &web1));
    assert!(!behind.reaches(&seed, &db1) && !behind.reaches(&db1, &web1));
    assert!(!behind.reaches(&name("web2"), &web1) && !behind.reaches(&seed, &name("web2")));
    let (id, bytes) = behind.encode();
    assert_eq!(Plan::decode(id, &bytes).unwrap(), behind);
    // One extension, tag 3, 6 bytes: a list with host 1, and one host that has that list.
    let plain = golden(PLAN);
    let without = &plain[..plain.len() - 1];
    assert_eq!(
        bytes,
        [without, b"\x01\x03\x06\x01\x01\x01\x01\x01\x01"].concat()
    );
    let both = behind.in_sites("east").unwrap();
    assert_eq!((both.seed_site(), both.routes()), (Some("east"), routes));
    assert_eq!(plan_of(&Routes::default()), plan());

    let bytes = Bytes::from_static(b"\x01\x01\x02\x01\x01\x01");
    let stranger =
        Extensions::try_from(vec![scap_proto::extensions::Extension { tag: 3, bytes }]).unwrap();
    let refused = changed(|plan| plan.extensions = stranger);
    assert!(matches!(refused, Err(PlanError::Routes(_))));
}

#[test]
fn a_plan_is_sorted_bounded_and_the_one_that_is_named() {
    assert_eq!(plan().host(&name("web1")), plan().hosts.last());
    assert_eq!(plan().host(&name("web2")), None);
    assert!(matches!(
        Plan::decode(PlanId::of(b"another"), &golden(PLAN)),
        Err(PlanError::OtherPlan)
    ));
    for reordered in [
        changed(|plan| plan.hosts.reverse()),
        changed(|plan| plan.hosts[1].name = plan.hosts[0].name.clone()),
    ] {
        assert!(matches!(reordered, Err(PlanError::Unsorted)));
    }
    for lonely in [
        changed(|plan| plan.degree = 0),
        changed(|plan| plan.fanout = 0),
    ] {
        assert!(matches!(lonely, Err(PlanError::Degree)));
    }
    let with_addresses =
        |count| changed(|plan| plan.hosts[1].addresses = vec![plan.hosts[0].addresses[0]; count]);
    assert!(with_addresses(HOST_ADDRESSES_MAX).is_ok());
    assert!(matches!(
        with_addresses(HOST_ADDRESSES_MAX + 1),
        Err(PlanError::Addresses(host)) if host == name("web1")
    ));
    let with_hosts = |count| {
        let host = |number| PlanHost {
            name: name(&format!("h{number:05}")),
            addresses: Vec::new(),
            site: String::new(),
            rack: String::new(),
            wave: 0,
        };
        changed(|plan| plan.hosts = (0..count).map(host).collect())
    };
    assert!(with_hosts(PLAN_HOSTS_MAX).is_ok());
    let more = with_hosts(PLAN_HOSTS_MAX + 1);
    assert!(matches!(more, Err(PlanError::Hosts(count)) if count == PLAN_HOSTS_MAX + 1));
}
