-- +goose Up

-- What the sandboxes of a host take is summed up by each placement, and that of all hosts now and then: from the index alone, where the rows have come to rest.
DROP INDEX sandboxes_live_by_host;
CREATE INDEX sandboxes_live_by_host ON sandboxes (host_id) INCLUDE (state, vcpus, memory_mib, disk_mib) WHERE state <> 'stopped';

-- +goose Down

DROP INDEX sandboxes_live_by_host;
CREATE INDEX sandboxes_live_by_host ON sandboxes (host_id) WHERE state <> 'stopped';
