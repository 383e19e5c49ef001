-- The tables and views of a store of this version. Each statement creates what is missing. A change to a table that
-- exists needs a function in core/store/migrations.py as well, whose name is recorded in `migrations`.
-- No table has a primary key: the only writer replaces rows by their key inside a transaction (key columns are named
-- first), which DuckDB does many times faster without an index.
-- claim: the number of the claim by which a worker wrote, jobs/live_runs.py. Records of older claims are dropped. 0: from
-- before there were claims.

CREATE TABLE IF NOT EXISTS migrations (
    name VARCHAR NOT NULL,          -- key; a function in core/store/migrations.py
    applied_at TIMESTAMPTZ NOT NULL
);

CREATE OR REPLACE VIEW schema_version AS  -- what older programs compare with their own version
SELECT count(*)::INTEGER AS version FROM migrations;

CREATE TABLE IF NOT EXISTS datasets (
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

CREATE TABLE IF NOT EXISTS dataset_images (
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
    localization VARCHAR,
    split VARCHAR                   -- train | validation | test, where a table or folder gives it
);

CREATE TABLE IF NOT EXISTS dataset_left_out (
    dataset VARCHAR NOT NULL,       -- key
    name VARCHAR NOT NULL,          -- file or CSV row
    reason VARCHAR NOT NULL         -- what was expected, what came
);

CREATE TABLE IF NOT EXISTS runs (
    run_id VARCHAR NOT NULL,        -- key
    kind VARCHAR NOT NULL,          -- svd-sweep | rivals | resize-study | reconstruct | diagnosis | train | prune-train
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
    command VARCHAR,                -- the command that repeats the run
    dataset_source VARCHAR,         -- for a run on a reconstruction: the data set that was made from
    study VARCHAR,                  -- what submitted several runs at once; NULL for a single run
    claim BIGINT DEFAULT 0,         -- of a training run, the newest one of this attempt
    origin_host VARCHAR,            -- of an imported run, the host of the store that recorded it; else NULL
    origin_store VARCHAR,           -- that store's file, on that host
    imported_at TIMESTAMPTZ
);

CREATE TABLE IF NOT EXISTS run_datasets (         -- of imported runs, the registration of the data set where they ran
    run_id VARCHAR NOT NULL,        -- key
    layout VARCHAR NOT NULL,        -- as in datasets; the folder and the images stay where they are
    source VARCHAR,
    settings VARCHAR,
    images BIGINT NOT NULL,
    left_out BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS run_logs (             -- of imported runs; the queue keeps the logs of the others for one day
    run_id VARCHAR NOT NULL,        -- key, with line
    line INTEGER NOT NULL,          -- from 1, the oldest
    text VARCHAR NOT NULL
);

CREATE TABLE IF NOT EXISTS images (
    run_id VARCHAR NOT NULL,        -- key, with image_id
    image_id VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    status VARCHAR NOT NULL,        -- measured | failed
    reason VARCHAR,                 -- why it failed
    seconds DOUBLE,
    worker VARCHAR,
    file VARCHAR,                   -- reconstruct: JSON of the new file's record
    claim BIGINT DEFAULT 0
);

CREATE TABLE IF NOT EXISTS measurements (         -- one row per image and variant; definitions: core/compression/metrics.py
    run_id VARCHAR NOT NULL,        -- key, with image_id and variant
    image_id VARCHAR NOT NULL,
    variant VARCHAR NOT NULL,       -- 'k=350' | 'jpeg 90' | '200x100'; of a diagnosis 'k=5 jpeg 95', 'jpeg 90'
    k INTEGER,                      -- singular values kept
    codec VARCHAR,
    quality INTEGER,
    height INTEGER,                 -- rows of the compared images
    width INTEGER,                  -- columns
    source_bytes BIGINT,            -- the file as it came
    stored_bytes BIGINT,            -- the stored reconstruction
    control_bytes BIGINT,           -- the source image through the same codec without SVD
    factor_bytes BIGINT,            -- k(H+W+1) numbers per matrix, float16
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
    decoded_crc32 BIGINT,           -- of the decoded pixels that were compared; NULL: measured before it was recorded
    reason VARCHAR                  -- why the row could not be measured, else NULL
);

CREATE TABLE IF NOT EXISTS verifications (        -- images measured again; core/compression/verification.py
    run_id VARCHAR NOT NULL,        -- key, with image_id and variant
    image_id VARCHAR NOT NULL,
    variant VARCHAR NOT NULL,       -- as in measurements; empty where the image could not be measured
    checked_at TIMESTAMPTZ NOT NULL,
    worker VARCHAR,
    decoded_crc32 BIGINT,           -- of the same pixels, as they are decoded where the image was checked
    stored_bytes BIGINT,
    pixels_apart DOUBLE,            -- share of the reconstruction's pixels that NumPy's SVD gives another value
    levels_apart INTEGER,           -- by how many grey levels at most
    mse DOUBLE,
    rmse DOUBLE,
    psnr DOUBLE,
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
    variation_of_information DOUBLE,
    normalized_mutual_information DOUBLE,
    mse_low DOUBLE,
    mse_high DOUBLE,
    spectral_correlation DOUBLE,
    spectral_loss DOUBLE,
    explained_variance DOUBLE,
    reason VARCHAR                  -- why the image could not be measured
);

CREATE TABLE IF NOT EXISTS statistics (           -- core/compression/summary.py: summarise
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

CREATE TABLE IF NOT EXISTS storage (              -- core/compression/summary.py: storage; bytes summed over measured images
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

CREATE TABLE IF NOT EXISTS optimal_k (            -- core/compression/optimal_k.py
    run_id VARCHAR NOT NULL,        -- key, with rule
    rule VARCHAR NOT NULL,          -- plateau | knee | threshold | budget
    k INTEGER,                      -- NULL: the rule chooses none, see reason
    reason VARCHAR NOT NULL,
    stability DOUBLE,               -- share of bootstrap resamples that choose the same k
    parameters VARCHAR NOT NULL     -- JSON
);

-- Trainings, core/training/steps.py. Percentages are 0 to 100, NULL where undefined.

CREATE TABLE IF NOT EXISTS studies (
    study VARCHAR NOT NULL,         -- key
    kind VARCHAR NOT NULL,          -- grid | article
    dataset VARCHAR NOT NULL,
    spec VARCHAR NOT NULL,          -- JSON of what was asked for
    status VARCHAR NOT NULL,        -- running | finished | failed | cancelled
    error VARCHAR,                  -- why it failed
    submitted_by VARCHAR,
    submitted_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    command VARCHAR                 -- the command that repeats it
);

CREATE TABLE IF NOT EXISTS training_data (        -- what a run's networks were fed: core/training/steps.py, TrainingData
    run_id VARCHAR NOT NULL,        -- key
    attempt INTEGER NOT NULL,
    encoding VARCHAR NOT NULL,      -- JSON of the metadata's encoding, needed to use the weights
    notes VARCHAR NOT NULL          -- JSON list of sentences that belong beside the results
);

CREATE TABLE IF NOT EXISTS run_splits (           -- the sets as really reached, core/data/splits.py
    run_id VARCHAR NOT NULL,        -- key, with label and split
    label VARCHAR NOT NULL,
    split VARCHAR NOT NULL,         -- train | validation | test
    quota BIGINT NOT NULL,          -- images asked for
    lesions BIGINT NOT NULL,
    images BIGINT NOT NULL,         -- different ones
    oversampled BIGINT NOT NULL     -- with the repeats that training adds
);

CREATE TABLE IF NOT EXISTS steps (                -- a training: core/training/steps.py, StepResult
    run_id VARCHAR NOT NULL,        -- key, with step
    step INTEGER NOT NULL,          -- 0 is the unpruned network
    attempt INTEGER NOT NULL,
    status VARCHAR NOT NULL,        -- training | finished | failed
    failure VARCHAR NOT NULL,       -- why it could not be trained, else empty
    name VARCHAR NOT NULL,          -- as in Table 6: 'Original', 'R1: 50%'
    factors VARCHAR NOT NULL,       -- JSON list of percentages
    network VARCHAR NOT NULL,       -- JSON of every layer
    parameters BIGINT NOT NULL,
    macs BIGINT NOT NULL,           -- of one image
    bytes_weights BIGINT NOT NULL,  -- counted, float32
    bytes_with_optimizer BIGINT NOT NULL,
    weights VARCHAR,                -- the .keras file, on the worker's host
    weights_bytes BIGINT,           -- its size
    checkpoint_bytes BIGINT,        -- of the file with the optimiser's state
    accepted BOOLEAN,
    criterion VARCHAR,              -- the first one missed
    value DOUBLE,                   -- percent reached
    needed DOUBLE,                  -- percent needed
    missed_by DOUBLE,               -- points
    reason VARCHAR NOT NULL,        -- a sentence, empty where accepted
    epochs INTEGER NOT NULL,        -- trained
    kept_epoch INTEGER,             -- whose weights are kept
    seconds DOUBLE,                 -- epochs and evaluation
    epoch_seconds DOUBLE,           -- mean, with validation
    images_per_second DOUBLE,       -- mean, in training
    peak_memory BIGINT,             -- bytes, the largest resident memory of the training process
    device VARCHAR,
    worker VARCHAR,
    started_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    train_accuracy DOUBLE,          -- the kept weights on the training split, each image once; core/predictions/classification.py
    train_precision DOUBLE,
    train_recall DOUBLE,
    train_macro_precision DOUBLE,
    train_macro_recall DOUBLE,
    train_balanced_accuracy DOUBLE,
    train_lesion_accuracy DOUBLE,
    validation_accuracy DOUBLE,
    validation_precision DOUBLE,
    validation_recall DOUBLE,
    validation_macro_precision DOUBLE,
    validation_macro_recall DOUBLE,
    validation_balanced_accuracy DOUBLE,
    validation_lesion_accuracy DOUBLE,
    test_accuracy DOUBLE,
    test_precision DOUBLE,
    test_recall DOUBLE,
    test_macro_precision DOUBLE,
    test_macro_recall DOUBLE,
    test_balanced_accuracy DOUBLE,
    test_lesion_accuracy DOUBLE,
    classification VARCHAR NOT NULL, -- JSON by split: metrics, intervals, class recalls and confusion matrix
    difference DOUBLE,              -- test accuracy minus the unpruned network's, points
    difference_low DOUBLE,          -- its 95 % paired interval
    difference_high DOUBLE,
    accepted_by_points BOOLEAN,     -- by the article's rule; `accepted` is by the rule that the run was asked to use
    noninferior BOOLEAN,            -- by the paired interval
    seed BIGINT,                    -- of the training that counts; NULL: before it was recorded, the run's
    lost BIGINT,                    -- trainings with earlier seeds whose network was lost
    "precision" VARCHAR             -- float32 | bfloat16 | float16
);

CREATE TABLE IF NOT EXISTS predictions (          -- what a step's network says of an image: core/predictions/rows.py
    run_id VARCHAR NOT NULL,        -- key, with step, split and image_id
    step INTEGER NOT NULL,
    split VARCHAR NOT NULL,         -- validation | test; train where the run was asked to keep them
    image_id VARCHAR NOT NULL,
    lesion_id VARCHAR,
    label VARCHAR NOT NULL,
    predicted VARCHAR NOT NULL,     -- the class of the largest probability
    p_melanoma FLOAT NOT NULL,
    p_nevus FLOAT NOT NULL,
    p_non_melanoma FLOAT NOT NULL,
    p_negative FLOAT NOT NULL
);

CREATE TABLE IF NOT EXISTS conversions (          -- a step's network in a format: core/deployment/formats.py, Conversion
    run_id VARCHAR NOT NULL,        -- key, with step and format
    step INTEGER NOT NULL,
    format VARCHAR NOT NULL,        -- litert-float32 | litert-float16 | litert-int8 | onnx-float32
    failure VARCHAR NOT NULL,       -- why it could not be converted or run, else empty
    bytes BIGINT,                   -- of the file, which lies beside the step's weights
    sha256 VARCHAR,
    images BIGINT NOT NULL,         -- of the test set, on which it was verified
    same_class BIGINT,              -- that get the same class as from Keras
    largest_difference DOUBLE,      -- of a probability from Keras's
    accuracy DOUBLE,                -- of the file on the test set, percent
    accuracy_low DOUBLE,            -- its 95 % interval
    accuracy_high DOUBLE,
    keras_accuracy DOUBLE,          -- of Keras with the same weights at float32
    calibration_images BIGINT NOT NULL,
    versions VARCHAR NOT NULL,      -- JSON: the packages that converted and ran it
    seconds DOUBLE,
    worker VARCHAR NOT NULL,
    converted_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE IF NOT EXISTS latencies (            -- core/deployment/latency.py, Latency
    run_id VARCHAR NOT NULL,        -- key, with step, format, threads and host
    step INTEGER NOT NULL,
    format VARCHAR NOT NULL,
    threads INTEGER NOT NULL,       -- of the runtime
    rounds BIGINT NOT NULL,         -- predictions of one image that were timed
    wall_median DOUBLE NOT NULL,    -- milliseconds
    wall_p95 DOUBLE NOT NULL,
    cpu_median DOUBLE NOT NULL,     -- of all threads of the process
    cpu_p95 DOUBLE NOT NULL,
    peak_memory BIGINT NOT NULL,    -- bytes, the largest resident memory of the process
    runtime VARCHAR NOT NULL,       -- with its version
    processor VARCHAR NOT NULL,
    cores INTEGER NOT NULL,
    load DOUBLE NOT NULL,           -- processes that wanted a core when the measurement began, one-minute average
    host VARCHAR NOT NULL,
    measured_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE IF NOT EXISTS svd_dense (            -- a step's network with dense layers of low rank: core/training/svd_dense.py
    run_id VARCHAR NOT NULL,        -- key, with step, energy and fine_tune_epochs
    step INTEGER NOT NULL,
    energy DOUBLE NOT NULL,         -- percent of the squared singular values that each such layer keeps
    network VARCHAR NOT NULL,       -- JSON of every layer
    parameters BIGINT NOT NULL,
    macs BIGINT NOT NULL,           -- of one image
    bytes_weights BIGINT NOT NULL,  -- counted, float32
    test_accuracy DOUBLE,           -- percent
    agreement DOUBLE NOT NULL,      -- percent of the test images that get the class that the step's own network gives them
    classification VARCHAR NOT NULL, -- JSON as in steps, of the test set alone
    predicted VARCHAR NOT NULL,     -- JSON: the class of each test image, by its id
    difference DOUBLE,              -- test accuracy minus the unpruned network's, points
    difference_low DOUBLE,          -- its 95 % paired interval
    difference_high DOUBLE,
    computed_at TIMESTAMPTZ NOT NULL,
    fine_tune_epochs INTEGER DEFAULT 0, -- that it was trained for after the layers were replaced
    latency DOUBLE,                 -- ms for one image: LiteRT float32, one thread, median; NULL where not measured
    latency_itself DOUBLE           -- of the step's own network, measured in turns with it
);

CREATE TABLE IF NOT EXISTS diagnoses (            -- what a network says of an image stored in one way: core/predictions/diagnosis.py
    run_id VARCHAR NOT NULL,        -- key, with image_id and variant
    image_id VARCHAR NOT NULL,
    variant VARCHAR NOT NULL,       -- as in measurements, which has bytes and metrics; 'original' for the image as it came
    lesion_id VARCHAR,
    label VARCHAR NOT NULL,
    predicted VARCHAR NOT NULL,     -- the class of the largest probability
    p_melanoma FLOAT NOT NULL,
    p_nevus FLOAT NOT NULL,
    p_non_melanoma FLOAT NOT NULL,
    p_negative FLOAT NOT NULL
);

CREATE TABLE IF NOT EXISTS epochs (               -- core/training/protocol.py, EpochResult
    run_id VARCHAR NOT NULL,        -- key, with step and epoch
    step INTEGER NOT NULL,
    epoch INTEGER NOT NULL,         -- from 1
    attempt INTEGER NOT NULL,
    train_loss DOUBLE,
    train_accuracy DOUBLE,          -- as Keras gathers it while the weights change
    train_precision DOUBLE,
    train_recall DOUBLE,
    validation_loss DOUBLE,
    validation_accuracy DOUBLE,
    validation_precision DOUBLE,
    validation_recall DOUBLE,
    seconds DOUBLE NOT NULL,        -- with validation
    images_per_second DOUBLE NOT NULL,
    meets_baseline BOOLEAN NOT NULL,
    best BOOLEAN NOT NULL,          -- the weights to keep so far
    ended_at TIMESTAMPTZ NOT NULL,
    spread DOUBLE,                  -- largest difference of a class's probability between validation images, 0 to 1
    dead_units INTEGER,             -- of the head's last hidden layer: 0 for every validation image
    hidden_units INTEGER,           -- all of that layer
    gradient_norm DOUBLE,           -- L2 norm of Adam's running mean of the gradient, without the last layer
    learning_rate DOUBLE            -- at the epoch's end
);

CREATE OR REPLACE VIEW trainings AS  -- one row per finished step, with its run and the sets that were really reached
SELECT
    steps.* EXCLUDE (status),
    steps.test_macro_precision AS macro_precision,
    steps.test_macro_recall AS macro_recall,
    steps.test_balanced_accuracy AS balanced_accuracy,
    steps.test_lesion_accuracy AS lesion_accuracy,
    (steps.classification ->> '$.test.class_recall.melanoma')::DOUBLE AS recall_melanoma,
    (steps.classification ->> '$.test.class_recall.nevus')::DOUBLE AS recall_nevus,
    (steps.classification ->> '$.test.class_recall.non_melanoma')::DOUBLE AS recall_non_melanoma,
    (steps.classification ->> '$.test.class_recall.negative')::DOUBLE AS recall_negative,
    (steps.classification ->> '$.test.macro_auc')::DOUBLE AS macro_auc,
    runs.kind,
    runs.status,                    -- the run's
    runs.study,
    runs.dataset,
    runs.dataset_fingerprint,
    runs.synthetic,
    runs.spec,
    runs.submitted_at,
    coalesce(runs.dataset_source, runs.dataset) AS family,  -- the original data set
    if(runs.dataset_source IS NULL, 'original', 'reconstructed') AS version,
    sets.* EXCLUDE (run_id)
FROM steps
JOIN runs USING (run_id)
LEFT JOIN (
    SELECT
        run_id,
        coalesce(sum(images) FILTER (split = 'train'), 0)::BIGINT AS train_images,
        coalesce(sum(oversampled) FILTER (split = 'train'), 0)::BIGINT AS train_oversampled,  -- with repeats
        coalesce(sum(images) FILTER (split = 'validation'), 0)::BIGINT AS validation_images,
        coalesce(sum(images) FILTER (split = 'test'), 0)::BIGINT AS test_images
    FROM run_splits GROUP BY run_id
) AS sets USING (run_id)
WHERE steps.status = 'finished';
