/* Between which scaled weights which code lies, as bitsandbytes' CUDA kernels have it (dQuantizeNF4
 * and dQuantizeFP4 in kernels.cu). */
#ifndef NB_QUANT_THRESHOLDS_H
#define NB_QUANT_THRESHOLDS_H

/* A code is the sum of the steps of all thresholds that a scaled weight is above. */
static const float nb_nf4_thresholds[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f,
};

/* Of |x|; the codes in order of value are 0, 1, 6, 7, 4, 5, 2, 3. */
static const float nb_fp4_thresholds[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                           0.4166667f,  0.583333f,  0.8333333f};
static const int nb_fp4_steps[7] = {1, 5, 1, -3, 1, -3, 1};

#endif
