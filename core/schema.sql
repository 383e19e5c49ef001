-- The store's schema, applied forwards: a file that stands at version n gets every section above n, in order.
-- Never edit a section that has been released: add the next one.
-- No table has a primary key: the one writer replaces rows by their key inside a transaction (key columns are named
-- first), which DuckDB does many times faster without an index.

-- version 1

CREATE TABLE datasets (
    name VARCHAR NOT NULL,          -- key
    root VARCHAR NOT NULL,          -- folder, absolute
    layout VARCHAR NOT NULL,        -- ham10000 | class_folders | plain
    synthetic BOOLEAN NOT NULL,     -- demo data: shown as synthetic wherever it appears
    source VARCHAR,                 -- for a reconstruction: the data set it was made from
    settings VARCHAR,               -- for a reconstruction: 'k=350 per_channel jpeg 95'
    images BIGINT NOT NULL,
    left_out BIGINT NOT NULL,       -- files and CSV rows without a usable image
    bytes BIGINT NOT NULL,          -- files on disk, summed
    fingerprint VARCHAR NOT NULL,   -- SHA-256 over ids, files, labels and metadata
    registered_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE dataset_images (
    dataset VARCHAR NOT NULL,       -- key, with image_id
    image_id VARCHAR NOT NULL,
    path VARCHAR NOT NULL,          -- relative to the data set's root
    bytes BIGINT NOT NULL,
    height INTEGER NOT NULL,        -- pixels
    width INTEGER NOT NULL,
    sha256 VARCHAR NOT NULL,        -- of the file
    label VARCHAR,                  -- melanoma | nevus | non_melanoma | negative | a class folder's name
    dx VARCHAR,                     -- HAM10000's diagnosis code
    lesion_id VARCHAR,
    age DOUBLE,                     -- years
    sex VARCHAR,
    localization VARCHAR
);

CREATE TABLE dataset_left_out (
    dataset VARCHAR NOT NULL,       -- key
    name VARCHAR NOT NULL,          -- file or CSV row
    reason VARCHAR NOT NULL         -- what was expected, what came
);

CREATE TABLE runs (
    run_id VARCHAR NOT NULL,        -- key
    kind VARCHAR NOT NULL,          -- svd-sweep | rivals | resize-study | reconstruct
    dataset VARCHAR NOT NULL,
    dataset_fingerprint VARCHAR NOT NULL,
    synthetic BOOLEAN NOT NULL,
    spec VARCHAR NOT NULL,          -- JSON of the run's parameters
    spec_hash VARCHAR NOT NULL,     -- equal for runs that would measure the same thing
    status VARCHAR NOT NULL,        -- queued | running | finished | failed | cancelled
    attempt INTEGER NOT NULL,       -- 1, and one more at each retry; results of older attempts are dropped
    total BIGINT NOT NULL,          -- images to measure
    measured BIGINT NOT NULL,       -- images measured
    failed BIGINT NOT NULL,         -- images that could not be measured, with their reasons in `images`
    error VARCHAR,                  -- why the run failed
    submitted_by VARCHAR,
    submitted_at TIMESTAMPTZ NOT NULL,
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    seconds DOUBLE,                 -- from start to finish
    work_seconds DOUBLE,            -- summed over images and workers
    workers VARCHAR,                -- names of the workers that measured, with their hosts
    code_revision VARCHAR,
    versions VARCHAR,               -- JSON: Python and packages
    command VARCHAR                 -- the command that repeats the run
);

CREATE TABLE images (
    run_id VARCHAR NOT NULL,        -- key, with image_id
    image_id VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    status VARCHAR NOT NULL,        -- measured | failed
    reason VARCHAR,                 -- why it failed
    seconds DOUBLE,
    worker VARCHAR,
    file VARCHAR                    -- reconstruct: JSON of the new file's record
);

CREATE TABLE measurements (         -- one row an image and variant; definitions: core/metrics.py
    run_id VARCHAR NOT NULL,        -- key, with image_id and variant
    image_id VARCHAR NOT NULL,
    variant VARCHAR NOT NULL,       -- 'k=350' | 'jpeg 90' | '200x100'
    k INTEGER,                      -- singular values kept
    codec VARCHAR,
    quality INTEGER,
    height INTEGER,                 -- rows of the compared images
    width INTEGER,                  -- columns
    source_bytes BIGINT,            -- the file as it came
    stored_bytes BIGINT,            -- the stored reconstruction
    control_bytes BIGINT,           -- the source image through the same codec without SVD
    factor_bytes BIGINT,            -- k(H+W+1) numbers a matrix, float16
    mse DOUBLE,
    rmse DOUBLE,
    psnr DOUBLE,                    -- dB; NULL for identical images
    ssim DOUBLE,
    hist_bhattacharyya DOUBLE,
    hist_bhattacharyya_b DOUBLE,
    hist_bhattacharyya_g DOUBLE,
    hist_bhattacharyya_r DOUBLE,
    hist_intersection DOUBLE,
    hu_distance DOUBLE,
    hu_correlation DOUBLE,
    haralick_distance DOUBLE,
    haralick_correlation DOUBLE,
    changed_percent DOUBLE,
    variation_of_information DOUBLE,  -- bits
    normalized_mutual_information DOUBLE,
    mse_low DOUBLE,
    mse_high DOUBLE,
    spectral_correlation DOUBLE,
    spectral_loss DOUBLE,
    explained_variance DOUBLE,
    reason VARCHAR                  -- why the row could not be measured, else NULL
);

CREATE TABLE statistics (           -- core/statistics.py: summarise
    run_id VARCHAR NOT NULL,        -- key, with variant and metric
    variant VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    mean DOUBLE,
    std DOUBLE,                     -- sample deviation
    median DOUBLE,
    p05 DOUBLE,
    p95 DOUBLE,
    count BIGINT NOT NULL,          -- images where the metric is defined
    undefined BIGINT NOT NULL       -- measured images where it is not
);

CREATE TABLE storage (              -- core/statistics.py: storage; bytes summed over measured images
    run_id VARCHAR NOT NULL,        -- key, with variant
    variant VARCHAR NOT NULL,
    k INTEGER,
    codec VARCHAR,
    quality INTEGER,
    height INTEGER,                 -- NULL where images differ
    width INTEGER,
    images BIGINT NOT NULL,
    pixels BIGINT,                  -- summed over measured images
    source_bytes BIGINT,
    stored_bytes BIGINT,
    control_bytes BIGINT,
    factor_bytes BIGINT,
    ratio DOUBLE,                   -- source/stored
    control_ratio DOUBLE,           -- source/control: what re-encoding alone saves
    svd_gain DOUBLE,                -- ratio/control_ratio: what SVD adds
    saved_percent DOUBLE,
    identical BIGINT,               -- images equal to their original
    unmeasured BIGINT               -- images without a row for this variant
);

CREATE TABLE optimal_k (            -- core/optimal_k.py
    run_id VARCHAR NOT NULL,        -- key, with rule
    rule VARCHAR NOT NULL,          -- plateau | knee | threshold | budget
    k INTEGER,                      -- NULL: the rule chooses none, see reason
    reason VARCHAR NOT NULL,
    stability DOUBLE,               -- share of bootstrap resamples that choose the same k
    parameters VARCHAR NOT NULL     -- JSON
);
