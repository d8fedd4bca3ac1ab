from rid.assets.protection.shards.names import parse_shard_file, shard_file

KEY = "ab" * 32


def test_what_decides_the_content_is_in_the_name() -> None:
    names = [
        shard_file("d", KEY),
        shard_file("d", KEY, known=(1,)),
        shard_file("d", KEY, known=(2,)),
        shard_file("d", KEY, killed=(1,)),
        shard_file("d", KEY, known=(1,), killed=(1,)),
        shard_file("d", KEY, known=(1,), generation=2),
        shard_file("d", KEY, generation=2),
    ]
    assert len(set(names)) == len(names)
    assert shard_file("d", KEY, known=(2, 1)) == shard_file("d", KEY, known=(1, 2))


def test_key_and_generation_are_read_back_whatever_was_decided() -> None:
    for known in ((), (3, 4)):
        for generation in (0, 1, 12):
            assert parse_shard_file(shard_file("d=1", KEY, known=known, generation=generation)) == (KEY, generation)
