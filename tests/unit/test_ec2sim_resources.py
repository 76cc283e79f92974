"""Tags, key pairs, security groups, images, types and networks keep EC2's limits and words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ec2sim.config import SimConfig, Unsupported
from tests.ec2sim.direct import Direct, Refused

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP5TnYSHQgF2cyUhZJKBZ9gTfGi8VVKQ6+CRZ3x2jHqZ"
DEFAULT = [{"Name": "is-default", "Values": ["true"]}]


@pytest.fixture
def ec2() -> Direct:
    return Direct(SimConfig(throttle=False))


def tag(ec2: Direct, resource: str, **tags: str) -> None:
    ec2.ask("CreateTags", Resources=[resource], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])


# tags


def test_fifty_tags_fit_on_a_resource_and_no_more(ec2: Direct) -> None:
    one = ec2.launch()[0]["InstanceId"]
    tag(ec2, one, **{f"t{n}": "x" for n in range(50)})
    tag(ec2, one, t0="other")
    with pytest.raises(Refused, match="TagLimitExceeded"):
        tag(ec2, one, t50="x")


@pytest.mark.parametrize(
    ("key", "value"), [("k" * 128, "v"), ("k", "v" * 257), ("aws:k", "v"), ("AWS:k", "v"), ("", "v")]
)
def test_a_tag_beyond_the_limits_is_refused(ec2: Direct, key: str, value: str) -> None:
    one = ec2.launch()[0]["InstanceId"]
    with pytest.raises(Refused, match="InvalidParameterValue"):
        tag(ec2, one, **{key: value})


def test_the_longest_tag_is_taken(ec2: Direct) -> None:
    one = ec2.launch()[0]["InstanceId"]
    tag(ec2, one, **{"k" * 127: "v" * 256})
    assert ec2.inside(one).tags == {"k" * 127: "v" * 256}


@pytest.mark.parametrize(("key", "taken"), [("a:b+c=d.e,f_g@h-i", True), ("a b", False), ("a/b", False), ("..", False)])
def test_tags_in_the_metadata_have_narrower_keys(ec2: Direct, key: str, taken: bool) -> None:
    metadata: dict[str, Any] = {"MetadataOptions": {"InstanceMetadataTags": "enabled"}}
    named: dict[str, Any] = {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": "x"}]}]}
    assert ec2.launch(**named)[0]["Tags"] == [{"Key": key, "Value": "x"}]
    if taken:
        assert len(ec2.launch(**named, **metadata)) == 1
    else:
        with pytest.raises(Refused, match="is not a valid tag key"):
            ec2.launch(**named, **metadata)


def test_later_tags_in_the_metadata_have_narrower_keys_too(ec2: Direct) -> None:
    one = ec2.launch(MetadataOptions={"InstanceMetadataTags": "enabled"})[0]["InstanceId"]
    with pytest.raises(Refused, match="is not a valid tag key"):
        tag(ec2, one, **{"a b": "x"})


def test_tags_go_on_all_resources_or_none(ec2: Direct) -> None:
    one = ec2.launch()[0]["InstanceId"]
    with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound"):
        ec2.ask("CreateTags", Resources=[one, "i-0"], Tags=[{"Key": "a", "Value": "1"}])
    assert ec2.inside(one).tags == {}


def test_a_volume_can_be_tagged(ec2: Direct) -> None:
    one = ec2.launch()[0]
    tag(ec2, one["BlockDeviceMappings"][0]["Ebs"]["VolumeId"], a="1")
    assert ec2.inside(one["InstanceId"]).volume_tags == {"a": "1"}


# key pairs


def test_an_imported_key_is_shown_with_its_public_half(ec2: Direct) -> None:
    ec2.ask("ImportKeyPair", KeyName="k", PublicKeyMaterial=f"{ED25519} me@home\n".encode())
    (pair,) = ec2.ask("DescribeKeyPairs", KeyNames=["k"], IncludePublicKey=True)["KeyPairs"]
    assert (pair["PublicKey"].split()[:2], pair["KeyType"]) == (ED25519.split(), "ed25519")


def test_the_public_half_is_only_shown_when_requested(ec2: Direct) -> None:
    ec2.ask("ImportKeyPair", KeyName="k", PublicKeyMaterial=ED25519.encode())
    assert "PublicKey" not in ec2.ask("DescribeKeyPairs")["KeyPairs"][0]


def test_a_key_pair_of_that_name_is_not_replaced(ec2: Direct) -> None:
    ec2.ask("ImportKeyPair", KeyName="k", PublicKeyMaterial=ED25519.encode())
    with pytest.raises(Refused, match=r"InvalidKeyPair\.Duplicate"):
        ec2.ask("ImportKeyPair", KeyName="k", PublicKeyMaterial=ED25519.encode())
    with pytest.raises(Refused, match=r"InvalidKeyPair\.Duplicate"):
        ec2.ask("CreateKeyPair", KeyName="k")


@pytest.mark.parametrize("material", [b"hello", b"ssh-dss AAAA", b"ssh-ed25519 AAAAB3NzaC1yc2E=", b"\xff\xfe"])
def test_what_is_no_public_key_is_refused(ec2: Direct, material: bytes) -> None:
    with pytest.raises(Refused, match=r"InvalidKey\.Format"):
        ec2.ask("ImportKeyPair", KeyName="k", PublicKeyMaterial=material)


def test_an_unknown_key_pair_is_not_found(ec2: Direct) -> None:
    with pytest.raises(Refused, match=r"InvalidKeyPair\.NotFound"):
        ec2.ask("DescribeKeyPairs", KeyNames=["k"])


@pytest.mark.parametrize(("sort", "begins"), [("ed25519", "-----BEGIN OPENSSH"), ("rsa", "-----BEGIN RSA")])
def test_a_created_key_can_be_imported_elsewhere(ec2: Direct, sort: str, begins: str) -> None:
    made = ec2.ask("CreateKeyPair", KeyName="k", KeyType=sort)
    assert made["KeyMaterial"].startswith(begins)
    (pair,) = ec2.ask("DescribeKeyPairs", KeyNames=["k"], IncludePublicKey=True)["KeyPairs"]
    ec2.ask("ImportKeyPair", KeyName="l", PublicKeyMaterial=pair["PublicKey"].encode())
    (other,) = ec2.ask("DescribeKeyPairs", KeyNames=["l"])["KeyPairs"]
    # Fingerprints of one RSA key differ by its origin: SHA-1 of the private half, MD5 of the public one.
    assert (other["KeyFingerprint"] == pair["KeyFingerprint"]) is (sort == "ed25519")


# security groups


def group(ec2: Direct, name: str = "g", **params: Any) -> str:
    return str(ec2.ask("CreateSecurityGroup", GroupName=name, Description="d", **params)["GroupId"])


def ssh(*cidrs: str, v6: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    ranges = {"IpRanges": [{"CidrIp": c} for c in cidrs], "Ipv6Ranges": [{"CidrIpv6": c} for c in v6]}
    return [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **{k: v for k, v in ranges.items() if v}}]


def allow(ec2: Direct, group_id: str, *cidrs: str, v6: tuple[str, ...] = ()) -> dict[str, Any]:
    return ec2.ask("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=ssh(*cidrs, v6=v6))


def ranges(ec2: Direct, group_id: str) -> list[str]:
    (found,) = ec2.ask("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"]
    return [r["CidrIp"] for permission in found["IpPermissions"] for r in permission["IpRanges"]]


def test_a_group_belongs_to_the_default_vpc_unless_told_otherwise(ec2: Direct) -> None:
    made = group(ec2)
    (vpc,) = ec2.ask("DescribeVpcs", Filters=DEFAULT)["Vpcs"]
    assert ec2.ask("DescribeSecurityGroups", GroupIds=[made])["SecurityGroups"][0]["VpcId"] == vpc["VpcId"]


def test_a_group_name_is_unique_in_its_vpc_alone(ec2: Direct) -> None:
    group(ec2)
    other = next(vpc["VpcId"] for vpc in ec2.ask("DescribeVpcs")["Vpcs"] if not vpc["IsDefault"])
    assert group(ec2, VpcId=other).startswith("sg-")
    with pytest.raises(Refused, match=r"InvalidGroup\.Duplicate"):
        group(ec2)


def test_an_allowed_range_is_shown(ec2: Direct) -> None:
    made = group(ec2)
    (rule,) = allow(ec2, made, "192.0.2.1/32")["SecurityGroupRules"]
    assert (rule["CidrIpv4"], rule["FromPort"], ranges(ec2, made)) == ("192.0.2.1/32", 22, ["192.0.2.1/32"])


def test_the_same_range_twice_is_a_duplicate_however_it_is_written(ec2: Direct) -> None:
    made = group(ec2)
    allow(ec2, made, "192.0.2.0/24")
    with pytest.raises(Refused, match=r"InvalidPermission\.Duplicate"):
        allow(ec2, made, "198.51.100.0/24", "192.0.2.77/24")
    assert ranges(ec2, made) == ["192.0.2.0/24"]


def test_sixty_rules_fit_in_a_group_of_either_family(ec2: Direct) -> None:
    made = group(ec2)
    allow(ec2, made, *(f"192.0.2.{n}/32" for n in range(60)))
    allow(ec2, made, v6=tuple(f"2001:db8::{n:x}/128" for n in range(60)))
    with pytest.raises(Refused, match="RulesPerSecurityGroupLimitExceeded"):
        allow(ec2, made, "198.51.100.1/32")
    with pytest.raises(Refused, match="RulesPerSecurityGroupLimitExceeded"):
        allow(ec2, made, v6=("2001:db8:1::/64",))


@pytest.mark.parametrize("cidr", ["192.0.2.1", "192.0.2.300/32", "::1/128", "here"])
def test_what_is_no_range_is_refused(ec2: Direct, cidr: str) -> None:
    with pytest.raises(Refused, match="InvalidParameterValue"):
        allow(ec2, group(ec2), cidr)


def test_groups_are_found_by_name_and_vpc(ec2: Direct) -> None:
    made = group(ec2)
    found = ec2.ask("DescribeSecurityGroups", Filters=[{"Name": "group-name", "Values": ["g"]}])["SecurityGroups"]
    assert [each["GroupId"] for each in found] == [made]
    assert ec2.ask("DescribeSecurityGroups", GroupNames=["g"])["SecurityGroups"][0]["GroupId"] == made


# images, types, places


def images(ec2: Direct, pattern: str, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ec2.ask("DescribeImages", Filters=[{"Name": "name", "Values": [pattern]}], **params)[
        "Images"
    ]
    return sorted(found, key=lambda image: str(image["CreationDate"]))


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_newest_linux_is_not_the_newest_that_resembles_it(ec2: Direct, architecture: str) -> None:
    careless = images(ec2, f"al2023-ami-*-{architecture}")[-1]
    careful = images(ec2, f"al2023-ami-2023.*-kernel-6.1-{architecture}", Owners=["amazon"])[-2]
    assert (careful["ImageOwnerAlias"], careful["State"]) == ("amazon", "available")
    assert careless["OwnerId"] != careful["OwnerId"]


def test_a_deprecated_image_is_only_shown_when_requested(ec2: Direct) -> None:
    pattern = "al2023-ami-2023.7.*-x86_64"
    assert images(ec2, pattern, Owners=["amazon"]) == []
    assert len(images(ec2, pattern, Owners=["amazon"], IncludeDeprecated=True)) == 1


def test_an_image_that_is_not_ready_is_not_launched(ec2: Direct) -> None:
    pending = next(image for image in images(ec2, "al2023-*-x86_64") if image["State"] == "pending")
    with pytest.raises(Refused, match=r"InvalidAMIID\.Unavailable"):
        ec2.run(ImageId=pending["ImageId"])


def test_image_ids_differ_by_region(ec2: Direct) -> None:
    here = ec2.image()
    ec2.region = "eu-central-1"
    assert ec2.image() != here


@pytest.mark.parametrize(
    ("name", "architectures", "hypervisor"),
    [("t3.micro", ["x86_64"], "nitro"), ("t4g.micro", ["arm64"], "nitro"), ("t2.micro", ["i386", "x86_64"], "xen")],
)
def test_types_tell_their_architecture(ec2: Direct, name: str, architectures: list[str], hypervisor: str) -> None:
    (each,) = ec2.ask("DescribeInstanceTypes", InstanceTypes=[name])["InstanceTypes"]
    assert (each["ProcessorInfo"]["SupportedArchitectures"], each["Hypervisor"]) == (architectures, hypervisor)


def test_an_unknown_type_is_refused(ec2: Direct) -> None:
    with pytest.raises(Refused, match="InvalidInstanceType"):
        ec2.ask("DescribeInstanceTypes", InstanceTypes=["t3.micro", "t9.huge"])


def test_offerings_tell_where_a_type_is(ec2: Direct) -> None:
    ec2.world.configure(SimConfig(unsupported=(Unsupported(zone="us-east-1b", instance_type="t3.*"),)))
    wanted = [{"Name": "instance-type", "Values": ["t3.micro"]}]
    found = ec2.ask("DescribeInstanceTypeOfferings", LocationType="availability-zone", Filters=wanted)
    assert [row["Location"] for row in found["InstanceTypeOfferings"]] == ["us-east-1a", "us-east-1c"]


def test_the_default_vpc_has_a_subnet_in_each_zone(ec2: Direct) -> None:
    (vpc,) = ec2.ask("DescribeVpcs", Filters=DEFAULT)["Vpcs"]
    subnets = ec2.ask("DescribeSubnets", Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
    zones = [zone["ZoneName"] for zone in ec2.ask("DescribeAvailabilityZones")["AvailabilityZones"]]
    assert [subnet["AvailabilityZone"] for subnet in subnets] == zones == ["us-east-1a", "us-east-1b", "us-east-1c"]


def test_the_caller_is_told_its_account(ec2: Direct) -> None:
    assert ec2.ask("GetCallerIdentity")["Account"] == "123456789012"


def test_accounts_share_nothing() -> None:
    ec2 = Direct()
    ec2.launch()
    ec2.world.configure(SimConfig(accounts={"AKIADIRECT": "210987654321"}))
    assert (ec2.ask("GetCallerIdentity")["Account"], ec2.listed()) == ("210987654321", [])
